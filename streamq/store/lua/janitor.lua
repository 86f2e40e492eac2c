#!lua flags=allow-oom
-- Forget a consumer that is gone.
-- KEYS: critical high normal low workers
-- ARGV: group consumer dead_after_ms
-- Returns: OK | ALIVE | PENDING
-- The checks and XGROUP DELCONSUMER are one step: it destroys what is pending for ever, without a word.
-- include: time
local group, consumer, dead_after = ARGV[1], ARGV[2], tonumber(ARGV[3])
local beat = digits(redis.call('HGET', KEYS[5], consumer))
if beat + dead_after > now_ms() then
  return 'ALIVE'
end
for i = 1, 4 do
  if #redis.call('XPENDING', KEYS[i], group, '-', '+', 1, consumer) > 0 then
    return 'PENDING'
  end
end
for i = 1, 4 do
  redis.call('XGROUP', 'DELCONSUMER', KEYS[i], group, consumer)
end
redis.call('HDEL', KEYS[5], consumer, '!about:' .. consumer)
return 'OK'
