#!lua flags=allow-oom
-- Take messages back that still wait.
-- KEYS: delayed messages ledger
-- ARGV: members
-- Returns: a word per member: OK | GONE (promoted, or never there)
-- include: expect
local words, cancelled = {}, 0
expect('hash', KEYS[2], KEYS[3])
for n, member in ipairs(ARGV) do
  if redis.call('ZREM', KEYS[1], member) == 1 then
    redis.call('HDEL', KEYS[2], member)
    cancelled = cancelled + 1
    words[n] = 'OK'
  else
    words[n] = 'GONE'
  end
end
if cancelled > 0 then
  redis.call('HINCRBY', KEYS[3], 'cancelled', cancelled)
end
return words
