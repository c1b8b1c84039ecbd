#!lua flags=allow-oom
-- Become the writer of a turn that nobody looks after.
--
-- KEYS  session, leases, turn
-- ARGV  gen, turn, nonce, node, lease ms, '1' when one full lease has passed since the store's restart was seen
-- Returns {result, gen, state before, spec, parent, counter, seq, at, takes, cancelled by, cancel_after_ms, head,
-- answers}: missing, over, held, foreign, taken. A turn that was queued or parked keeps that state until it is sealed,
-- so that whoever takes it again knows.

local T, turn, nonce = KEYS[3], ARGV[2], ARGV[3]
local t = redis.call('HMGET', T, 'state', 'nonce', 'lease_replid', 'spec', 'parent', 'counter', 'seq', 'at',
  'cancel_by', 'cancel_after_ms')
local state = t[1]
if not state then return {'missing'} end
if state == 'done' or state == 'error' then return {'over', GEN} end

if t[2] ~= nonce then
  if t[2] ~= '' and t[3] ~= REPLID then
    if ARGV[6] ~= '1' then return {'foreign', GEN} end
  elseif due_of(turn) > NOW then
    return {'held', GEN}
  end
  if t[2] ~= '' then redis.call('HINCRBY', T, 'takes', 1) end
  redis.call('HSET', T, 'nonce', nonce, 'node', ARGV[4], 'lease_replid', REPLID)
  redis.call('ZADD', LEASES, NOW + ARGV[5], member(turn))
end

return {'taken', GEN, state, t[4], t[5], tonumber(t[6]), tonumber(t[7]), tonumber(t[8]),
  tonumber(redis.call('HGET', T, 'takes') or 0), t[9] or '', t[10], HEAD,
  redis.call('HGETALL', asks_key(turn))}
