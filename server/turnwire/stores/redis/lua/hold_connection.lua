#!lua
-- Take or keep a place among the connections that may be there at the same time.
--
-- KEYS  the places, a sorted set by the time until which each is held
-- ARGV  connection, for how many ms, how many there may be or '' for one that is in
-- Returns 1, or 0 when all places are taken.

local time = redis.call('TIME')
local at = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[3] ~= '' then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', at)
  if not redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
end
redis.call('ZADD', KEYS[1], at + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
