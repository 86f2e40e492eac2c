#!lua
-- Accept messages, each alone: one that is refused does not hold back the next.
-- KEYS: critical high normal low delayed messages ledger seen_0 seen_1 ...once keys
-- ARGV: seen_window_ms max_length once_ttl_ms count, then per message:
--       level delay_ms due_ms id index_of_its_once_key(0 = none) number_of_values name value name value ...
-- Returns: a word per message: OK | DUP | IDEM first_id | FULL | ERR text
-- A message that was accepted within the window is recognised by its id in the same step that adds it, so a try
-- whose reply was lost can be repeated. All keys are read first: one of a wrong type fails before any write.
-- include: time entry
local window, max_length, once_ttl = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local delayed, messages, ledger = KEYS[5], KEYS[6], KEYS[7]
local stream_of = { critical = KEYS[1], high = KEYS[2], normal = KEYS[3], low = KEYS[4] }

local length = redis.call('ZCARD', delayed)
for i = 1, 4 do
  length = length + redis.call('XLEN', KEYS[i])
end
redis.call('HLEN', messages)
redis.call('HLEN', ledger)
redis.call('SCARD', KEYS[8])
redis.call('SCARD', KEYS[9])
local first_of = {} -- idempotency key -> the id that was accepted for it
for i = 10, #KEYS do
  first_of[KEYS[i]] = redis.call('GET', KEYS[i])
end

local now = now_ms()
local bucket = math.floor(now / window)
local fresh, older = KEYS[8 + bucket % 2], KEYS[8 + (bucket + 1) % 2]
local words, accepted, added = {}, 0, {}

local function accept(level, delay_ms, due_ms, id, values)
  local due = due_ms > 0 and due_ms or (delay_ms > 0 and now + delay_ms or 0)
  if due > now then
    redis.call('HSET', messages, id, pack(values))
    redis.call('ZADD', delayed, integer(due), id)
    return nil
  end
  local reply = redis.pcall('XADD', stream_of[level], '*', unpack(values))
  if type(reply) == 'table' and reply.err then
    return 'ERR ' .. reply.err
  end
  added[level] = (added[level] or 0) + 1
end

local at = 5
for n = 1, tonumber(ARGV[4]) do
  local level, delay_ms, due_ms, id = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), ARGV[at + 3]
  local once, count = KEYS[9 + tonumber(ARGV[at + 4])], tonumber(ARGV[at + 5])
  if ARGV[at + 4] == '0' then
    once = nil
  end
  local first = once and first_of[once]
  if redis.call('SISMEMBER', fresh, id) == 1 or redis.call('SISMEMBER', older, id) == 1
    or redis.call('ZSCORE', delayed, id) then
    words[n] = 'DUP'
  elseif first then
    words[n] = 'IDEM ' .. first
  elseif max_length > 0 and length >= max_length then
    words[n] = 'FULL'
  else
    local values = {}
    for i = 1, count do
      values[i] = ARGV[at + 5 + i]
    end
    local failed = accept(level, delay_ms, due_ms, id, values)
    words[n] = failed or 'OK'
    if not failed then
      length, accepted = length + 1, accepted + 1
      redis.call('SADD', fresh, id)
      if once then
        local wait = math.max(delay_ms, due_ms - now, 0)
        redis.call('SET', once, id, 'PX', integer(math.max(once_ttl, wait + 3600000)))
        first_of[once] = id
      end
    end
  end
  at = at + 6 + count
end
if accepted > 0 then
  -- A key lives through the millisecond in which it expires. Without the -1 a message of that millisecond would carry
  -- all ids of this window over into the one after the next, and a busy queue would never forget any.
  redis.call('PEXPIREAT', fresh, integer((bucket + 2) * window - 1))
  redis.call('HINCRBY', ledger, 'accepted', accepted)
  for level, count in pairs(added) do
    redis.call('HINCRBY', ledger, 'added:' .. level, count)
  end
end
return words
