#!lua flags=allow-oom
-- Give entries back to the tail of their stream, unrun: shutdown, or nobody free for them.
-- KEYS: critical high normal low ledger
-- ARGV: group consumer count, then per entry: level entry token deliveries
-- Returns: a word per entry: OK | LOST | VANISHED | KEPT
-- A copy in the stream wakes a blocked reader at once; the copy and the acknowledgement are one step, so that a crash
-- leaves one of them. `deliveries` is written only where there is something to say: its presence tells that a message
-- has waited among the delayed ones.
-- include: time expect entry fence
local group, consumer, ledger = ARGV[1], ARGV[2], KEYS[5]
local stream_of = { critical = KEYS[1], high = KEYS[2], normal = KEYS[3], low = KEYS[4] }
local words = {}
expect('hash', ledger)

local function counters_of(fields, losses)
  local counters = { retry_count = fields.retry_count, held_since = fields.held_since, alone = fields.alone }
  counters.deliveries = (losses ~= '0' or fields.deliveries) and losses or nil
  return counters
end

for n = 1, tonumber(ARGV[3]) do
  local at = 4 + (n - 1) * 4
  local level, entry, token, losses = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local stream = stream_of[level]
  -- Marked to run alone by a call whose reply was lost: it never ran, so it must not count as having died.
  if not owned(stream, group, entry, consumer, token) and not owned(stream, group, entry, consumer, token + 1000) then
    words[n] = 'LOST'
    redis.call('HINCRBY', ledger, 'fenced', 1)
  else
    local flat = body(stream, group, entry, ledger)
    local fields = flat and read_fields(flat)
    if not flat then
      words[n] = 'VANISHED'
    elseif not fields then
      words[n] = 'KEPT' -- unreadable: left pending, so that whoever takes it over makes it a dead letter
    elseif not add(stream, ledger, level, carry(fields, level, entry, counters_of(fields, losses))) then
      words[n] = 'KEPT' -- the stream takes no more: left pending, it is taken over when its lease ends
    else
      remove(stream, group, entry)
      redis.call('HINCRBY', ledger, 'released', 1)
      words[n] = 'OK'
    end
  end
end
return words
