#!lua flags=allow-oom
-- Make the one group of a queue on its four streams, at 0 so that nothing published before is missed.
-- KEYS: critical high normal low delayed messages ledger workers dead
-- ARGV: group protocol needs
-- Returns: OK | OTHER_GROUP key name | WRONG_TYPE key type | NEWER protocol
-- All checks come before the first change. A second group would deliver everything twice and delete the other's work.
-- `!needs` is the protocol that whoever works here must speak: a worker that is older would misread what it finds.
-- include: time
local group, protocol, needs, workers = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), KEYS[8]
local wanted = { 'stream', 'stream', 'stream', 'stream', 'zset', 'hash', 'hash', 'hash', 'stream' }

local function field(flat, name)
  for i = 1, #flat, 2 do
    if flat[i] == name then
      return flat[i + 1]
    end
  end
end

local exists = {}
for i, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key)
  kind = kind.ok or kind
  if kind ~= 'none' and kind ~= wanted[i] then
    return { 'WRONG_TYPE', key, kind }
  end
  if i <= 4 and kind == 'stream' then
    for _, info in ipairs(redis.call('XINFO', 'GROUPS', key)) do
      local name = field(info, 'name')
      if name ~= group then
        return { 'OTHER_GROUP', key, name }
      end
      exists[i] = true
    end
  end
end
local needed = digits(redis.call('HGET', workers, '!needs'))
if needed > protocol then
  return { 'NEWER', integer(needed) }
end
for i = 1, 4 do
  if not exists[i] then
    redis.call('XGROUP', 'CREATE', KEYS[i], group, '0', 'MKSTREAM')
  end
end
if needed < needs then
  redis.call('HSET', workers, '!needs', needs)
end
return { 'OK' }
