#!lua flags=allow-oom
-- Take what is done off the streams.
-- KEYS: critical high normal low ledger
-- ARGV: group counter(done | dropped), then per level: count id id ...
-- Returns: how many were counted
-- Not fenced: a success is true whoever reports it. `done` counts where either command found something (a pending
-- entry, or a body whose group was made anew); the rest were settled by another worker before: late_ack.
local group, counter = ARGV[1], ARGV[2]
local done, late, at = 0, 0, 3
for i = 1, 4 do
  local count, pending, others = tonumber(ARGV[at]), {}, {}
  for n = at + 1, at + count do
    local list = redis.call('XACK', KEYS[i], group, ARGV[n]) == 1 and pending or others
    list[#list + 1] = ARGV[n]
  end
  if #pending > 0 then
    redis.call('XDEL', KEYS[i], unpack(pending))
    done = done + #pending
  end
  for _, entry in ipairs(others) do
    if redis.call('XDEL', KEYS[i], entry) == 1 then
      done = done + 1
    else
      late = late + 1
    end
  end
  at = at + 1 + count
end
if done > 0 then
  redis.call('HINCRBY', KEYS[5], counter, done)
end
if late > 0 then
  redis.call('HINCRBY', KEYS[5], 'late_ack', late)
end
return done
