#!lua flags=allow-oom
-- Remove a session; for a while nothing of its name can be made again.
--
-- KEYS  session, leases, the owner's sessions, the partition's idle index
-- ARGV  gen, for how many ms its name stays taken
-- Returns 1, or 0 when there was none.

if not GEN then return 0 end
forget()
redis.call('SET', SESSION .. ':deleted', '1', 'PX', ARGV[2])
return 1
