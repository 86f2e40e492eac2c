#!lua flags=allow-oom
-- Cluster: a dead letter arrives at the common stream, coming from its queue's own slot.
-- KEYS: dead_letter moved
-- ARGV: ttl_ms, then name value name value ...
-- Returns: OK | DUP (it arrived before, and only its departure is missing)
-- The mark is set in the step that adds the letter: a crash before the letter is deleted at its queue repeats without
-- effect. Added before it is marked, so that an error leaves both undone.
if redis.call('EXISTS', KEYS[2]) == 1 then
  return 'DUP'
end
local flat = {}
for i = 2, #ARGV do
  flat[#flat + 1] = ARGV[i]
end
redis.call('XADD', KEYS[1], '*', unpack(flat))
redis.call('SET', KEYS[2], '1', 'PX', ARGV[1])
return 'OK'
