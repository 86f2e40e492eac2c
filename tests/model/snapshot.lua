-- Everything that one queue holds, in one reply.
-- KEYS: the streams, delayed, messages, ledger, workers, the two sets of seen ids, the dead letters, then idempotency
-- keys. ARGV: group.
local function stream(key)
  local last, pending = '', {}
  if redis.call('EXISTS', key) == 1 then
    for _, info in ipairs(redis.call('XINFO', 'GROUPS', key)) do
      for i = 1, #info, 2 do
        if info[i] == 'last-delivered-id' then
          last, pending = info[i + 1], redis.call('XPENDING', key, ARGV[1], '-', '+', 1000)
        end
      end
    end
  end
  return { redis.call('XRANGE', key, '-', '+'), last, pending }
end

local function until_when(key)
  return redis.call('PEXPIRETIME', key)
end

local once = {}
for i = 12, #KEYS do
  once[i - 11] = { redis.call('GET', KEYS[i]), until_when(KEYS[i]) }
end
return { stream(KEYS[1]), stream(KEYS[2]), stream(KEYS[3]), stream(KEYS[4]),
  redis.call('ZRANGE', KEYS[5], 0, -1, 'WITHSCORES'), redis.call('HGETALL', KEYS[6]), redis.call('HGETALL', KEYS[7]),
  redis.call('HGETALL', KEYS[8]), { redis.call('SMEMBERS', KEYS[9]), until_when(KEYS[9]) },
  { redis.call('SMEMBERS', KEYS[10]), until_when(KEYS[10]) }, redis.call('XRANGE', KEYS[11], '-', '+'), once }
