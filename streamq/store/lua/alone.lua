#!lua flags=allow-oom
-- Mark a suspect just before it runs alone, so that whoever takes it over knows how it died. A worker that is told to
-- end takes the mark off again: whoever ends it for good will not be the message.
-- KEYS: critical high normal low ledger
-- ARGV: group consumer level entry token change(1000 | -1000)
-- Returns: the new token | LOST
-- The mark is in the delivery counter itself (+1000): it goes with the entry, and no second place can disagree.
-- include: expect fence
local group, consumer, entry, token = ARGV[1], ARGV[2], ARGV[4], tonumber(ARGV[5])
local stream_of = { critical = KEYS[1], high = KEYS[2], normal = KEYS[3], low = KEYS[4] }
local stream, marked = stream_of[ARGV[3]], token + tonumber(ARGV[6])
expect('hash', KEYS[5])
if owned(stream, group, entry, consumer, marked) then
  return marked -- sent twice
end
if not owned(stream, group, entry, consumer, token) then
  return 'LOST'
end
return claim(stream, group, consumer, entry, KEYS[5], 'RETRYCOUNT', marked) and marked or 'LOST'
