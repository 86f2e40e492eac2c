#!lua
-- Cluster: a dead letter arrives back at its queue, coming from the slot of the dead letters.
-- KEYS: critical high normal low ledger ...replayed
-- ARGV: ttl_ms level, then name value name value ...
-- Returns: OK | DUP (it arrived before, and only its departure is missing)
-- As `move`, in the other direction.
if redis.call('EXISTS', KEYS[6]) == 1 then
  return 'DUP'
end
local stream_of = { critical = KEYS[1], high = KEYS[2], normal = KEYS[3], low = KEYS[4] }
local flat = {}
for i = 3, #ARGV do
  flat[#flat + 1] = ARGV[i]
end
redis.call('XADD', stream_of[ARGV[2]], '*', unpack(flat))
redis.call('SET', KEYS[6], '1', 'PX', ARGV[1])
redis.call('HINCRBY', KEYS[5], 'added:' .. ARGV[2], 1)
redis.call('HINCRBY', KEYS[5], 'replayed', 1)
return 'OK'
