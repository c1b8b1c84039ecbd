#!lua flags=allow-oom
-- Remove a session; for a while nothing of its name can be made again.
--
-- KEYS  session, leases, the owner's sessions, the partition's idle index
-- ARGV  gen, for how many ms its name stays taken, nonce
-- Returns {gen, seq of session.deleted, at, active turn}, or nothing when there was none. The same nonce again is
-- answered from what was stored. The log is gone with the session, so session.deleted travels in the nudge alone: who
-- misses that finds no session.

local TOMBSTONE = SESSION .. ':deleted'
if not GEN then
  local nonce, gen, seq, at, active = string.match(redis.call('GET', TOMBSTONE) or '', '^(%S+) (%S+) (%d+) (%d+) (%S*)$')
  if nonce ~= ARGV[3] then return {} end
  return {gen, tonumber(seq), tonumber(at), active}
end
local seq = HEAD + 1
forget(GEN .. ' ' .. seq .. ' deleted ' .. NOW)
redis.call('SET', TOMBSTONE, table.concat({ARGV[3], GEN, seq, NOW, ACTIVE}, ' '), 'PX', ARGV[2])
return {GEN, seq, NOW, ACTIVE}
