#!lua
-- Cluster: a dead letter arrives back at its queue, coming from the slot of the dead letters.
-- KEYS: critical high normal low ledger ...replayed
-- ARGV: ttl_ms level, then name value name value ... or: raw, and the packed fields that were kept of it
-- Returns: OK | DUP (it arrived before, and only its departure is missing) | PURGED (it is to go for good)
--          | RAW (what was kept is unusable)
-- As `move`, in the other direction.
-- include: entry
local mark = redis.call('GET', KEYS[6])
if mark then
  return mark == 'purged' and 'PURGED' or 'DUP'
end
local stream_of = { critical = KEYS[1], high = KEYS[2], normal = KEYS[3], low = KEYS[4] }
local flat = {}
for i = 3, #ARGV do
  flat[#flat + 1] = ARGV[i]
end
if flat[1] == 'raw' then
  flat = unpack_entry(flat[2])
end
if not flat or #flat == 0 or #flat % 2 == 1 or #flat > MOST_VALUES then
  return 'RAW'
end
redis.call('XADD', stream_of[ARGV[2]], '*', unpack(flat))
redis.call('SET', KEYS[6], '1', 'PX', ARGV[1])
redis.call('HINCRBY', KEYS[5], 'added:' .. ARGV[2], 1)
redis.call('HINCRBY', KEYS[5], 'replayed', 1)
return 'OK'
