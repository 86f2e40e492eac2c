#!lua flags=no-writes
-- Ask which commands this user would be refused. Nothing is run: a try would have to be harmless, and few are.
-- KEYS: ...keys that the commands name
-- ARGV: per command: number_of_words word word ...
-- Returns: {indexes of commands that would be refused, from 1}
local refused, at, n = {}, 1, 0
while at <= #ARGV do
  local words, count = {}, tonumber(ARGV[at])
  for i = 1, count do
    words[i] = ARGV[at + i]
  end
  n, at = n + 1, at + 1 + count
  local known, allowed = pcall(redis.acl_check_cmd, unpack(words))
  if not known or not allowed then
    refused[#refused + 1] = n
  end
end
return refused
