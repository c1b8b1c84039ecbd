#!lua flags=allow-oom
-- Remove a session that nobody has written to for long. One with an active turn is looked at again later.
--
-- KEYS  session, leases, the owner's sessions, the partition's idle index
-- ARGV  gen, idle ms
-- Returns 1 when it was removed, else 0.

local due = redis.call('ZSCORE', KEYS[4], string.sub(SESSION, 9))
-- It was written to, or removed, since it was found to be due.
if not due or tonumber(due) > NOW then return 0 end
if ACTIVE ~= '' then
  redis.call('ZADD', KEYS[4], NOW + ARGV[2], string.sub(SESSION, 9))
  return 0
end
-- No gen and no head: the session is not there any more.
forget(' 0')
return 1
