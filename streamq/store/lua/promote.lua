#!lua flags=allow-oom
-- Move due messages from the delayed ones to their streams: they come back in by the front door.
-- KEYS: critical high normal low delayed messages ledger dead
-- ARGV: queue limit max_now_ms(0 = trust the clock)
-- Returns: OK now_ms moved dead next_due_ms(-1 = none waits) | CLOCK now_ms
-- Each message alone, added before it is removed. One that does not unpack becomes a dead letter: left in place it
-- would stop every promote for ever; so would one whose stream takes no more ids: it waits for another minute. A clock
-- that jumped ahead would fire everything at once: CLOCK.
-- include: time expect entry bury
local queue, limit, max_now = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local delayed, messages, ledger, dead = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local stream_of = { critical = KEYS[1], high = KEYS[2], normal = KEYS[3], low = KEYS[4] }
local now = now_ms()
if max_now > 0 and now > max_now then
  return { 'CLOCK', integer(now) }
end

expect('hash', messages, ledger)
expect('stream', KEYS[1], KEYS[2], KEYS[3], KEYS[4], dead)
local LATER = 60000
local moved, buried = 0, 0
local due = redis.call('ZRANGEBYSCORE', delayed, '-inf', integer(now), 'LIMIT', 0, limit)
for _, member in ipairs(due) do
  local packed = redis.call('HGET', messages, member)
  local flat = packed and unpack_entry(packed)
  local fields = flat and read_fields(flat)
  if fields then
    local level = LEVEL_OF[fields.priority or '3']
    fields.id = fields.id or member
    fields.priority = fields.priority or NUMBER_OF[level]
    local counters = { held_since = fields.held_since, alone = fields.alone }
    counters.retry_count = fields.retry_count or '0'
    counters.deliveries = fields.deliveries or '0'
    if add(stream_of[level], ledger, level, carry(fields, level, member, counters)) then
      moved = moved + 1
    else
      redis.call('ZADD', delayed, 'XX', integer(now + LATER), member)
      member = nil
    end
  else
    bury(dead, ledger, nil, { packed or '' }, {
      original_queue = queue, original_id = member, reason = 'malformed', error = MALFORMED,
      failed_at = integer(now), retry_count = '0', deliveries = '0',
    })
    buried = buried + 1
  end
  if member then
    redis.call('ZREM', delayed, member)
    redis.call('HDEL', messages, member)
  end
end
if moved > 0 then
  redis.call('HINCRBY', ledger, 'promoted', moved)
end
local nearest = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
local next_due = nearest[2] and integer(math.max(0, math.min(tonumber(nearest[2]), 9e15))) or '-1'
return { 'OK', integer(now), moved, buried, next_due }
