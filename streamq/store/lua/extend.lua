#!lua flags=allow-oom
-- One beat of a worker: renew the leases of what it runs, say that it lives, learn who does not.
-- KEYS: critical high normal low workers ledger
-- ARGV: group consumer lease_ms silent_after_ms about('' = unchanged) count, then per delivery: level entry token
-- Returns: now_ms {indexes of deliveries that are no longer ours, from 1} {silent consumers}
-- Renewal is fenced: a bare XCLAIM of a worker that was stopped would take the entry back from whoever runs it now.
-- JUSTID keeps the delivery counter: a renewal is not a loss.
-- include: time expect fence guard
local group, consumer, lease, silent_after, about = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local workers, ledger = KEYS[5], KEYS[6]
local stream_of = { critical = KEYS[1], high = KEYS[2], normal = KEYS[3], low = KEYS[4] }
local now, lost, silent = now_ms(), {}, {}
expect('hash', ledger)
service_guard(workers, now, lease)
redis.call('HSET', workers, consumer, integer(now)) -- before what can fail: a lost group is not a dead worker

for n = 1, tonumber(ARGV[6]) do
  local at = 7 + (n - 1) * 3
  local stream, entry, token = stream_of[ARGV[at]], ARGV[at + 1], ARGV[at + 2]
  if not owned(stream, group, entry, consumer, token) or not claim(stream, group, consumer, entry, ledger) then
    lost[#lost + 1] = n
  end
end
if about ~= '' then
  redis.call('HSET', workers, '!about:' .. consumer, about)
end
local beats = redis.call('HGETALL', workers)
for i = 1, #beats, 2 do
  if string.sub(beats[i], 1, 1) ~= '!' and digits(beats[i + 1]) + silent_after < now then
    silent[#silent + 1] = beats[i]
  end
end
return { integer(now), lost, silent }
