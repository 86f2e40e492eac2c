#!lua flags=allow-oom
-- Write a queue's name where others look it up. Called only after Redis refused a plain SADD for want of memory.
-- KEYS: names
-- ARGV: queue
-- Returns: OK
-- Without it no worker could start, and so none could drain, when memory is full.
redis.call('SADD', KEYS[1], ARGV[1])
return 'OK'
