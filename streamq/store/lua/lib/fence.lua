-- Whether a pending entry is still ours: the same consumer, delivered as often as when it came to us. Without this a
-- worker that lost its lease would settle a message that another one is running.
local function owned(stream, group, entry, consumer, token)
  local pending = redis.call('XPENDING', stream, group, entry, entry, 1)[1]
  return pending and pending[2] == consumer and pending[4] == tonumber(token)
end

-- The fields of a pending entry; a body that somebody deleted is taken off the books.
local function body(stream, group, entry, ledger)
  local found = redis.call('XRANGE', stream, entry, entry)[1]
  if found then
    return found[2]
  end
  redis.call('XACK', stream, group, entry)
  redis.call('HINCRBY', ledger, 'vanished', 1)
  return nil
end

-- Renew our lease without counting a delivery. A body that somebody deleted leaves the pending list by itself.
local function claim(stream, group, consumer, entry, ledger, ...)
  if #redis.call('XCLAIM', stream, group, consumer, 0, entry, 'JUSTID', ...) == 1 then
    return true
  end
  redis.call('HINCRBY', ledger, 'vanished', 1)
  return false
end

local function remove(stream, group, entry)
  redis.call('XACK', stream, group, entry)
  redis.call('XDEL', stream, entry)
end
