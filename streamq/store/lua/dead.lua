#!lua
-- Move entries to the dead letters. Called with allow-oom only after Redis refused it for want of memory.
-- KEYS: critical high normal low ledger dead
-- ARGV: group consumer queue count, then per entry:
--       level entry token original_id reason error traceback fingerprint retry_count deliveries
-- Returns: a word per entry: OK | LOST | VANISHED
-- The letter is written before the entry is removed: a crash or an error in between leaves the message pending.
-- include: time expect entry fence bury
local group, consumer, queue, ledger, dead = ARGV[1], ARGV[2], ARGV[3], KEYS[5], KEYS[6]
local stream_of = { critical = KEYS[1], high = KEYS[2], normal = KEYS[3], low = KEYS[4] }
local now, words = now_ms(), {}
expect('hash', ledger)
expect('stream', dead)

for n = 1, tonumber(ARGV[4]) do
  local at = 5 + (n - 1) * 10
  local level, entry, token = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local stream = stream_of[level]
  if not owned(stream, group, entry, consumer, token) then
    words[n] = 'LOST'
    redis.call('HINCRBY', ledger, 'fenced', 1)
  else
    local flat = body(stream, group, entry, ledger)
    if not flat then
      words[n] = 'VANISHED'
    else
      bury(dead, ledger, read_fields(flat), flat, {
        original_queue = queue, original_id = ARGV[at + 3], original_entry = entry, reason = ARGV[at + 4],
        error = ARGV[at + 5], traceback = ARGV[at + 6], fingerprint = ARGV[at + 7], retry_count = ARGV[at + 8],
        deliveries = ARGV[at + 9], failed_at = integer(now), worker = consumer,
      })
      remove(stream, group, entry)
      words[n] = 'OK'
    end
  end
end
return words
