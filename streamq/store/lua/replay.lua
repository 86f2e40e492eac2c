#!lua flags=allow-oom
-- Bring dead letters back to the queue they were signed for, in the same bytes, with a clean record.
-- KEYS: critical high normal low ledger dead
-- ARGV: force(1 = also what was kept raw), ids of dead letters
-- Returns: a word per letter: OK | GONE | RAW (its fields were unreadable)
-- Standalone and Sentinel only: stream and dead letters change in one step, so a letter is in one place at any time.
-- The ids that were accepted lately play no part: the message is among them, and a publish would drop it.
-- include: expect entry
local force, ledger, dead, words = ARGV[1] == '1', KEYS[5], KEYS[6], {}
local stream_of = { critical = KEYS[1], high = KEYS[2], normal = KEYS[3], low = KEYS[4] }
expect('hash', ledger)

local function raw_of(flat)
  for i = 1, #flat, 2 do
    if flat[i] == 'raw' then
      return unpack_entry(flat[i + 1])
    end
  end
end

for n = 2, #ARGV do
  local letter = ARGV[n]
  local found = redis.call('XRANGE', dead, letter, letter)[1]
  local fields = found and read_fields(found[2])
  local level, flat = 'normal', nil
  if fields then
    level = LEVEL_OF[fields.priority or '3']
    fields.id = fields.id or fields.original_id
    flat = carry(fields, level, letter, { retry_count = '0' })
  elseif found and force then
    flat = raw_of(found[2])
  end
  if not found then
    words[n - 1] = 'GONE'
  elseif not flat or #flat == 0 or #flat % 2 == 1 or #flat > MOST_VALUES then
    words[n - 1] = 'RAW'
  else
    redis.call('XADD', stream_of[level], '*', unpack(flat))
    redis.call('HINCRBY', ledger, 'added:' .. level, 1)
    redis.call('HINCRBY', ledger, 'replayed', 1)
    redis.call('XDEL', dead, letter)
    words[n - 1] = 'OK'
  end
end
return words
