#!lua flags=allow-oom
-- End the tokens that were issued to a user up to now; a full store does it too. Ends are forgotten when the tokens
-- that they speak of are over by themselves; where there are too many, the oldest.
--
-- KEYS  ends, version
-- ARGV  the user's hash, a fresh version, for how long to remember (ms), users max
-- Returns now (ms).

local time = redis.call('TIME')
local NOW = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], 'GT', NOW, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', NOW - ARGV[3])
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -ARGV[4] - 1)
redis.call('SET', KEYS[2], ARGV[2])
return NOW
