#!lua flags=allow-oom
-- Delete entries that nobody works on: of the dead letters, or undelivered ones of a queue.
-- KEYS: stream ledger
-- ARGV: group('' = a stream without one), ids
-- Returns: how many went
-- What is pending belongs to a worker and stays.
-- include: expect
local group, purged = ARGV[1], 0
expect('hash', KEYS[2])
for n = 2, #ARGV do
  local pending = group ~= '' and redis.call('XPENDING', KEYS[1], group, ARGV[n], ARGV[n], 1)[1]
  if not pending then
    purged = purged + redis.call('XDEL', KEYS[1], ARGV[n])
  end
end
if purged > 0 then
  redis.call('HINCRBY', KEYS[2], 'purged', purged)
end
return purged
