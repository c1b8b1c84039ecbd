#!lua
-- Claim a turn's share of what an organisation or an address may use, before the turn is accepted.
--
-- KEYS  quota, its turns that run, its open claims: a sorted set of `turn tokens money` by the time until which it holds
-- ARGV  turn, lease ms, six limits, two of an estimate
-- Returns {limit, wait ms, what is left of six limits}. Limit 0: all was claimed. Limit 2, turns running: all but a
-- place among these, so the turn may wait in a queue. Any other: nothing was. The same turn again is not claimed twice.
-- A claim that nobody confirms by holding it is dropped: whoever made it died before the turn was accepted.

local at = quota_now()
local limits, estimate = {unpack(ARGV, 3, 8)}, {ARGV[9], ARGV[10]}
for _, dead in ipairs(redis.call('ZRANGE', KEYS[3], '-inf', at, 'BYSCORE', 'LIMIT', 0, 100)) do
  redis.call('ZREM', KEYS[3], dead)
  local tokens, nano = string.match(dead, ' (%d+) (%d+)$')
  quota_settle(KEYS[1], {tokens, nano}, 0, 0, at)
end
local claim = table.concat({ARGV[1], ARGV[9], ARGV[10]}, ' ')
if not redis.call('ZSCORE', KEYS[3], claim) then
  local broken, wait = quota_refusal(KEYS[1], KEYS[2], limits, estimate, at, false)
  if broken then return {broken, wait, quota_left(KEYS[1], KEYS[2], limits, at)} end
  quota_claim(KEYS[1], limits, estimate, at)
  redis.call('ZADD', KEYS[3], at + 6 * ARGV[2], claim)
  redis.call('PEXPIRE', KEYS[3], QUOTA_KEPT_MS)
end
local limit = 0
local is_in = redis.call('ZSCORE', KEYS[2], ARGV[1])
if limits[2] ~= '' and not is_in and quota_running(KEYS[2], at) >= tonumber(limits[2]) then
  limit = 2
else
  redis.call('ZADD', KEYS[2], at + ARGV[2], ARGV[1])
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
return {limit, 0, quota_left(KEYS[1], KEYS[2], limits, at)}
