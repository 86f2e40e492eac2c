#!lua flags=allow-oom
-- Take over the entries of workers that vanished, and judge what killed them.
-- KEYS: critical high normal low delayed messages ledger workers dead
-- ARGV: queue group consumer lease_ms count silent_after_ms max_deliveries cursor x4, then names of silent consumers
-- Returns: OK now_ms {cursor x4} suspects dead vanished {level entry token losses flat} ... | GRACE now_ms
-- Entries of silent consumers first, whatever their age, then whoever is idle longer than the lease. Each call looks
-- at 10 x count pending entries only, so the cursor of each level is the caller's to keep until it is 0-0.
-- Losses are judged here and nowhere else: an entry that lost two workers waits and runs alone from then on; one that
-- killed two while it ran alone is poison.
-- include: time expect entry fence bury guard
local queue, group, consumer = ARGV[1], ARGV[2], ARGV[3]
local lease, room, silent_after = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local max_deliveries = tonumber(ARGV[7])
local delayed, messages, ledger, workers, dead = KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local ALONE = 1000 -- the counter of an entry that runs alone lies this much higher
local now = now_ms()
if service_guard(workers, now, lease) then
  return { 'GRACE', integer(now) }
end

expect('zset', delayed)
expect('hash', messages, ledger)
expect('stream', dead)
for i = 1, 4 do
  redis.call('XPENDING', KEYS[i], group, '-', '+', 1) -- a claim that is not reported would count as a loss
end
local cursors, taken, suspects, buried = { ARGV[8], ARGV[9], ARGV[10], ARGV[11] }, {}, 0, 0

local function bury_entry(stream, entry, fields, flat, reason, losses, text)
  bury(dead, ledger, fields, flat, {
    original_queue = queue, original_id = fields and fields.id or '', original_entry = entry, reason = reason,
    error = text, failed_at = integer(now), worker = consumer, deliveries = integer(losses),
    retry_count = fields and integer(digits(fields.retry_count)) or '0',
  })
  remove(stream, group, entry)
  buried = buried + 1
end

local function judge(level, stream, entry, flat)
  redis.call('HINCRBY', ledger, 'orphan', 1)
  local delivered = redis.call('XPENDING', stream, group, entry, entry, 1)[1][4]
  local fields = read_fields(flat)
  if not fields then
    return bury_entry(stream, entry, nil, flat, 'malformed', delivered - 1, MALFORMED)
  end
  local alone = digits(fields.alone)
  local token = delivered
  if delivered > ALONE + 1 then
    alone, delivered = alone + 1, delivered - ALONE
  end
  local losses = digits(fields.deliveries) + delivered - 1
  fields.id = fields.id or ('e' .. level .. '-' .. entry)
  if alone >= 2 then
    return bury_entry(stream, entry, fields, flat, 'poison', losses, 'killed ' .. alone .. ' workers while it ran alone')
  elseif losses >= max_deliveries then
    return bury_entry(stream, entry, fields, flat, 'max_deliveries', losses, losses .. ' workers vanished with it')
  elseif losses < 2 then
    taken[#taken + 1] = { level, entry, token, losses, flat }
    room = room - 1
    return
  end
  local counters = { retry_count = integer(digits(fields.retry_count)), deliveries = integer(losses) }
  counters.held_since = fields.held_since
  counters.alone = alone > 0 and integer(alone) or nil
  local wait = losses == 2 and 1000 or (losses == 3 and 5000 or 30000)
  delay(delayed, messages, fields, level, entry, now + wait, carry(fields, level, entry, counters))
  remove(stream, group, entry)
  redis.call('HINCRBY', ledger, 'suspect', 1)
  suspects = suspects + 1
end

local gone = 0
local function vanished(count)
  if count > 0 then
    gone = gone + count
    redis.call('HINCRBY', ledger, 'vanished', count)
  end
end

local function from_silent(name)
  for i, level in ipairs(LEVELS) do
    if room <= 0 then
      return
    end
    local ids = {}
    for _, pending in ipairs(redis.call('XPENDING', KEYS[i], group, '-', '+', room, name)) do
      ids[#ids + 1] = pending[1]
    end
    if #ids > 0 then
      local claimed = redis.call('XCLAIM', KEYS[i], group, consumer, 0, unpack(ids))
      vanished(#ids - #claimed) -- a body that was deleted leaves the pending list by itself
      for _, item in ipairs(claimed) do
        judge(level, KEYS[i], item[1], item[2])
      end
    end
  end
end

for n = 12, #ARGV do
  if ARGV[n] ~= consumer and is_silent(workers, ARGV[n], now, silent_after) then
    from_silent(ARGV[n])
  end
end
for i, level in ipairs(LEVELS) do
  if room > 0 then
    local reply = redis.call('XAUTOCLAIM', KEYS[i], group, consumer, lease, cursors[i], 'COUNT', room)
    cursors[i] = reply[1]
    vanished(reply[3] and #reply[3] or 0)
    for _, item in ipairs(reply[2]) do
      judge(level, KEYS[i], item[1], item[2])
    end
  end
end
return { 'OK', integer(now), cursors, suspects, buried, gone, unpack(taken) }
