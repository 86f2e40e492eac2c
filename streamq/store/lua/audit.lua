#!lua flags=no-writes
-- One moment of a queue: its counters and what really lies there.
-- KEYS: critical high normal low delayed messages ledger workers
-- ARGV: group
-- Returns: now_ms delayed messages {ledger name value ...} then per level: {length entries_added pending
--          oldest_ready_id oldest_pending_id consumers}
-- Read in one step, because a law that is checked while messages move must be checked at one moment.
-- include: time
local function info(flat)
  local fields = {}
  for i = 1, #flat, 2 do
    fields[flat[i]] = flat[i + 1]
  end
  return fields
end

local function level(stream)
  if redis.call('EXISTS', stream) == 0 then
    return { 0, 0, 0, '', '', 0 }
  end
  local about, group = info(redis.call('XINFO', 'STREAM', stream)), nil
  for _, found in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local fields = info(found)
    if fields['name'] == ARGV[1] then
      group = fields
    end
  end
  local last, ready, oldest = group and group['last-delivered-id'], '', ''
  for _, item in ipairs(redis.call('XRANGE', stream, last or '-', '+', 'COUNT', 2)) do -- `(LAST` fails at the last id
    if ready == '' and item[1] ~= last then
      ready = item[1]
    end
  end
  if group and group['pending'] > 0 then
    oldest = redis.call('XPENDING', stream, ARGV[1], '-', '+', 1)[1][1]
  end
  return { about['length'], about['entries-added'], group and group['pending'] or 0, ready, oldest,
    group and group['consumers'] or 0 }
end

return { integer(now_ms()), redis.call('ZCARD', KEYS[5]), redis.call('HLEN', KEYS[6]), redis.call('HGETALL', KEYS[7]),
  level(KEYS[1]), level(KEYS[2]), level(KEYS[3]), level(KEYS[4]) }
