#!lua flags=allow-oom
-- A turn that had claimed something of an organisation's or an address's quota is over, or was refused.
--
-- KEYS  quota, its turns that run, its open claims
-- ARGV  turn, two of the estimate, what was used (tokens, money), and for a turn that was refused its turns a minute: it
--       gives back its place in the minute; else ''
-- Returns 1, or 0 when it was settled before.

redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('ZREM', KEYS[3], table.concat({ARGV[1], ARGV[2], ARGV[3]}, ' ')) == 0 then return 0 end
quota_settle(KEYS[1], {ARGV[2], ARGV[3]}, ARGV[4], ARGV[5], quota_now())
if ARGV[6] ~= '' then
  local tat = tonumber(redis.call('HGET', KEYS[1], 'tat') or 0)
  redis.call('HSET', KEYS[1], 'tat', math.max(0, tat - math.floor(60000000 / ARGV[6])))
end
return 1
