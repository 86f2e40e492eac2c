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

local function remove(stream, group, entry)
  redis.call('XACK', stream, group, entry)
  redis.call('XDEL', stream, entry)
end
