#!lua
-- Store an API key.
--
-- KEYS  keys, version
-- ARGV  id, record, a fresh version, keys max
-- Returns 1, or 0 where there are too many. The same key again changes nothing.

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[4]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('SET', KEYS[2], ARGV[3])
return 1
