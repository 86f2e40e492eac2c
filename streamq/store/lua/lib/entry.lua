-- Entries: reading what a stream holds, carrying its signed bytes on, packing them for the delayed messages.
local LEVELS = { 'critical', 'high', 'normal', 'low' }
local LEVEL_OF = { ['1'] = 'critical', ['2'] = 'high', ['3'] = 'normal', ['4'] = 'low' }
local NUMBER_OF = { critical = '1', high = '2', normal = '3', low = '4' }
local CARRIED = { 'id', 'queue', 'priority', 'payload', 'metadata', 'signature' }
local COUNTERS = { 'retry_count', 'deliveries', 'held_since', 'alone' }
local MOST_VALUES = 7000 -- unpack() fails near 8000

-- name, value, name, value ... -> table; nil when a name is doubled, or when there is no payload.
local function read_fields(flat)
  if #flat > MOST_VALUES or #flat % 2 == 1 then
    return nil
  end
  local fields = {}
  for i = 1, #flat, 2 do
    if fields[flat[i]] then
      return nil
    end
    fields[flat[i]] = flat[i + 1]
  end
  if not fields.payload or not LEVEL_OF[fields.priority or '1'] then
    return nil
  end
  return fields
end

-- What a rewritten entry holds: the signed bytes as they were, an id and a level once and for all, the counters.
local function carry(fields, level, entry, counters)
  local flat = {}
  fields.id = fields.id or ('e' .. level .. '-' .. entry)
  fields.priority = fields.priority or NUMBER_OF[level]
  for _, name in ipairs(CARRIED) do
    if fields[name] then
      flat[#flat + 1] = name
      flat[#flat + 1] = fields[name]
    end
  end
  for _, name in ipairs(COUNTERS) do
    if counters[name] then
      flat[#flat + 1] = name
      flat[#flat + 1] = counters[name]
    end
  end
  return flat
end

local function pack(flat)
  local parts = {}
  for i, value in ipairs(flat) do
    parts[i] = #value .. ':' .. value .. ','
  end
  return table.concat(parts)
end

-- Netstrings -> flat list; nil when the text is not made of whole netstrings.
local function unpack_entry(text)
  local flat, at = {}, 1
  while at <= #text do
    local _, colon, length = string.find(text, '^(%d%d?%d?%d?%d?%d?%d?%d?):', at)
    if not colon then
      return nil
    end
    local last = colon + tonumber(length)
    if string.sub(text, last + 1, last + 1) ~= ',' then
      return nil
    end
    flat[#flat + 1] = string.sub(text, colon + 1, last)
    at = last + 2
  end
  return flat
end

-- Add an entry of ours. Returns false when the stream takes no more, because somebody used up the last id.
local function add(stream, ledger, level, flat)
  local reply = redis.pcall('XADD', stream, '*', unpack(flat))
  if type(reply) == 'table' and reply.err then
    return false
  end
  redis.call('HINCRBY', ledger, 'added:' .. level, 1)
  return true
end

-- Put an entry among the delayed messages. A member that waits already is never overwritten.
local function delay(delayed, messages, fields, level, entry, due, flat)
  local member = fields.id
  while redis.call('ZSCORE', delayed, member) do -- twice where somebody else's id looks like one of these
    member = member .. '~' .. level .. '-' .. entry
  end
  redis.call('HSET', messages, member, pack(flat))
  redis.call('ZADD', delayed, string.format('%.0f', due), member)
end
