-- Everything that one queue and the dead letters hold, in one reply. KEYS: the streams, delayed, messages, ledger,
-- workers, the two sets of seen ids, the dead letters, their ledger, then idempotency keys. ARGV: group.
local function stream(key)
  local last = ''
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', key)) do
    for i = 1, #info, 2 do
      if info[i] == 'last-delivered-id' then
        last = info[i + 1]
      end
    end
  end
  local pending = last ~= '' and redis.call('XPENDING', key, ARGV[1], '-', '+', 1000) or {}
  return { redis.call('XRANGE', key, '-', '+'), last, pending }
end

local time, once = redis.call('TIME'), {}
for i = 13, #KEYS do
  once[i - 12] = redis.call('GET', KEYS[i])
end
return { stream(KEYS[1]), stream(KEYS[2]), stream(KEYS[3]), stream(KEYS[4]),
  redis.call('ZRANGE', KEYS[5], 0, -1, 'WITHSCORES'), redis.call('HGETALL', KEYS[6]), redis.call('HGETALL', KEYS[7]),
  redis.call('HGETALL', KEYS[8]), redis.call('SMEMBERS', KEYS[9]), redis.call('SMEMBERS', KEYS[10]),
  redis.call('XRANGE', KEYS[11], '-', '+'), redis.call('HGET', KEYS[12], 'purged'), once,
  time[1] * 1000 + math.floor(time[2] / 1000) }
