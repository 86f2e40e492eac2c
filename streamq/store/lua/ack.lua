#!lua flags=allow-oom
-- Take what is done off the streams.
-- KEYS: critical high normal low ledger
-- ARGV: group counter(done | dropped), then per level: count id id ...
-- Returns: how many were counted
-- Not fenced: a success is true whoever reports it. `done` counts where either command found something (a pending
-- entry, or a body whose group was made anew); the rest were settled by another worker before: late_ack.
-- Counted level by level, so that a stream of a wrong type leaves the others' books in order.
-- include: expect
local group, counter, ledger = ARGV[1], ARGV[2], KEYS[5]
local total, at = 0, 3
expect('hash', ledger)
for i = 1, 4 do
  local count, pending, others, late = tonumber(ARGV[at]), {}, {}, 0
  for n = at + 1, at + count do
    local list = redis.call('XACK', KEYS[i], group, ARGV[n]) == 1 and pending or others
    list[#list + 1] = ARGV[n]
  end
  local done = #pending
  if done > 0 then
    redis.call('XDEL', KEYS[i], unpack(pending))
  end
  for _, entry in ipairs(others) do
    if redis.call('XDEL', KEYS[i], entry) == 1 then
      done = done + 1
    else
      late = late + 1
    end
  end
  if done > 0 then
    redis.call('HINCRBY', ledger, counter, done)
  end
  if late > 0 then
    redis.call('HINCRBY', ledger, 'late_ack', late)
  end
  total, at = total + done, at + 1 + count
end
return total
