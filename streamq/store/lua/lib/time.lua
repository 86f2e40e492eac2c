-- The time of this Redis in milliseconds. Scripts never use the clock of a client.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function integer(number)
  return string.format('%.0f', number)
end

-- What a client or a hash holds is not trusted: only plain digits count, anything else is 0.
local function digits(text)
  if type(text) == 'string' and #text <= 16 and string.find(text, '^%d+$') then
    return tonumber(text)
  end
  return 0
end
