#!lua flags=allow-oom
-- Forget an API key; a full store does it too.
--
-- KEYS  keys, version
-- ARGV  id, a fresh version
-- Returns 1, or 0 where there was none.

local removed = redis.call('HDEL', KEYS[1], ARGV[1])
if removed == 1 then redis.call('SET', KEYS[2], ARGV[2]) end
return removed
