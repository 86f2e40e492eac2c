#!lua flags=no-writes
-- Count dead letters by the queue they came from, a page at a time.
-- KEYS: dead
-- ARGV: start_id count
-- Returns: the last id seen('' = there are no more) name count name count ...
-- Counted where they lie: bodies stay in Redis, and a page is short enough not to hold up others.
local page = redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])
local counts, order = {}, {}
for _, item in ipairs(page) do
  local queue = ''
  for i = 1, #item[2], 2 do
    if item[2][i] == 'original_queue' then
      queue = item[2][i + 1]
    end
  end
  if not counts[queue] then
    counts[queue] = 0
    order[#order + 1] = queue
  end
  counts[queue] = counts[queue] + 1
end
local reply = { #page == tonumber(ARGV[2]) and page[#page][1] or '' }
for _, queue in ipairs(order) do
  reply[#reply + 1] = queue
  reply[#reply + 1] = counts[queue]
end
return reply
