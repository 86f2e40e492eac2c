-- The service guard: after an outage, a failover or a step of the clock nobody could speak, so silence proves nothing.
-- Without it the first caller after an outage would take every entry from workers that live.
local OUTAGE, STEP_BACK, GRACE = 5000, 2000, 10000

-- The clock stepped back: a beat from the future would keep whoever died from being missed until time has caught up.
local function pull_beats_back(workers, now)
  local beats = redis.call('HGETALL', workers)
  for i = 1, #beats, 2 do
    if digits(beats[i + 1]) > now then
      redis.call('HSET', workers, beats[i], integer(now))
    end
  end
end

-- An outage is what lets a lease end although its worker lives: three quarters of it, with beats every quarter.
local function service_guard(workers, now, lease)
  local seen = digits(redis.call('HGET', workers, '!seen'))
  if seen > now + STEP_BACK then
    pull_beats_back(workers, now)
  end
  if seen > 0 and (now - seen > math.min(OUTAGE, lease * 0.75) or seen > now + STEP_BACK) then
    redis.call('HSET', workers, '!grace', integer(now + GRACE))
  end
  redis.call('HSET', workers, '!seen', integer(now))
  local grace = digits(redis.call('HGET', workers, '!grace'))
  return now < grace and grace <= now + GRACE
end

-- Consumers that have not beaten for so long. Names that begin with `!` are not consumers.
local function is_silent(workers, consumer, now, silent_after)
  local beat = redis.call('HGET', workers, consumer)
  return beat and digits(beat) + silent_after < now
end
