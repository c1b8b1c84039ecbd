#!lua flags=allow-oom
-- Keep what an accepted turn has claimed: its claim until it is settled, and while it runs its place.
--
-- KEYS  quota, its turns that run, its open claims
-- ARGV  turn, two of its estimate, for how many ms it holds its place, or '' while it waits

local at = quota_now()
redis.call('ZADD', KEYS[3], 'XX', at + QUOTA_KEPT_MS, table.concat({ARGV[1], ARGV[2], ARGV[3]}, ' '))
if ARGV[4] ~= '' then
  redis.call('ZADD', KEYS[2], at + ARGV[4], ARGV[1])
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
else
  redis.call('ZREM', KEYS[2], ARGV[1])
end
