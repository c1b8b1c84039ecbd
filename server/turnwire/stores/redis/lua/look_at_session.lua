#!lua flags=allow-oom
-- Where a session stands, and whether its active turn needs somebody.
--
-- KEYS  session, leases
-- ARGV  gen, 'watched' to note that somebody watches it now, else ''
-- Returns {gen, head, floor, overdue turn}, or nothing for a session that is not there.

if not GEN then return {} end
if ARGV[2] == 'watched' then
  redis.call('HSET', SESSION, 'watched_at', NOW)
end
local overdue = ''
if due_of(ACTIVE) <= NOW then overdue = ACTIVE end
return {GEN, HEAD, tonumber(redis.call('HGET', SESSION, 'floor')), overdue}
