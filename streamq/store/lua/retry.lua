#!lua flags=allow-oom
-- Send entries back to wait: a failed handler, a snooze, a type or key that nobody knows, a suspect.
-- KEYS: critical high normal low delayed messages ledger
-- ARGV: group consumer count, then per entry:
--       level entry token delay_ms why retry_count deliveries held_since alone
-- Returns: a word per entry: OK | LOST | VANISHED | KEPT
-- Adding to the delayed messages and acknowledging are one step: acknowledged first, a crash between would lose the
-- message; added first, it would run twice.
-- include: time expect entry fence
local group, consumer = ARGV[1], ARGV[2]
local delayed, messages, ledger = KEYS[5], KEYS[6], KEYS[7]
local stream_of = { critical = KEYS[1], high = KEYS[2], normal = KEYS[3], low = KEYS[4] }
local now, words = now_ms(), {}
expect('zset', delayed)
expect('hash', messages, ledger)

for n = 1, tonumber(ARGV[3]) do
  local at = 4 + (n - 1) * 9
  local level, entry, token = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local delay_ms, why = tonumber(ARGV[at + 3]), ARGV[at + 4]
  local stream = stream_of[level]
  if not owned(stream, group, entry, consumer, token) then
    words[n] = 'LOST'
    redis.call('HINCRBY', ledger, 'fenced', 1)
  else
    local flat = body(stream, group, entry, ledger)
    local fields = flat and read_fields(flat)
    if not flat then
      words[n] = 'VANISHED'
    elseif not fields then
      words[n] = 'KEPT' -- unreadable: left pending, it never came from an admitted delivery
    else
      local counters = { retry_count = ARGV[at + 5], deliveries = ARGV[at + 6] }
      counters.held_since = ARGV[at + 7] ~= '0' and ARGV[at + 7] or nil
      counters.alone = ARGV[at + 8] ~= '0' and ARGV[at + 8] or nil
      local carried = carry(fields, level, entry, counters)
      delay(delayed, messages, fields, level, entry, now + delay_ms, carried)
      remove(stream, group, entry)
      redis.call('HINCRBY', ledger, why, 1)
      words[n] = 'OK'
    end
  end
end
return words
