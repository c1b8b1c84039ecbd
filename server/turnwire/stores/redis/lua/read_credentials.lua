#!lua flags=no-writes
-- The API keys there are, and whose tokens were ended since.
--
-- KEYS  keys, ends, version
-- ARGV  the version that is known, since (ms)
-- Returns {version, keys (id, record, …), ends (user's hash, ms, …)}, or {version} where that is the known one.

local version = redis.call('GET', KEYS[3]) or ''
if version == ARGV[1] then return {version} end
return {version, redis.call('HGETALL', KEYS[1]),
  redis.call('ZRANGE', KEYS[2], ARGV[2], '+inf', 'BYSCORE', 'WITHSCORES')}
