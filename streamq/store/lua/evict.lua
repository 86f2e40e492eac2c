#!lua flags=allow-oom
-- Make room in a full queue: the oldest undelivered entries go, from the lowest level up to the newcomer's own.
-- KEYS: critical high normal low delayed ledger
-- ARGV: group level_of_the_newcomer max_length wanted
-- Returns: how many went | -1 (none had to: there is room, so that somebody who was refused may try again)
-- Nothing goes unless the queue is really full, so a repeated call takes nothing more.
-- include: expect entry
local group, level, max_length, wanted = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local ledger, evicted = KEYS[6], 0
expect('hash', ledger)
local length = redis.call('ZCARD', KEYS[5])
for i = 1, 4 do
  length = length + redis.call('XLEN', KEYS[i])
end

if length + wanted <= max_length then
  return -1
end

local function last_delivered(stream)
  if redis.call('EXISTS', stream) == 1 then
    for _, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
      local fields = {}
      for i = 1, #info, 2 do
        fields[info[i]] = info[i + 1]
      end
      if fields['name'] == group then
        return fields['last-delivered-id']
      end
    end
  end
  return '-'
end

for i = 4, tonumber(NUMBER_OF[level]), -1 do
  local excess = math.min(length - max_length + wanted, wanted - evicted)
  if excess > 0 then
    local last = last_delivered(KEYS[i])
    for _, item in ipairs(redis.call('XRANGE', KEYS[i], last, '+', 'COUNT', excess + 1)) do -- `(LAST` fails at the last id
      if item[1] ~= last and excess > 0 then
        redis.call('XDEL', KEYS[i], item[1])
        evicted, length, excess = evicted + 1, length - 1, excess - 1
      end
    end
  end
end
if evicted > 0 then
  redis.call('HINCRBY', ledger, 'evicted', evicted)
end
return evicted
