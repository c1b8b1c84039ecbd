#!lua flags=allow-oom
-- Become the writer of a turn that nobody looks after.
--
-- KEYS  session, leases, turn
-- ARGV  gen, turn, nonce, node, lease ms, what may be taken: 'ownerless', or 'overdue' leases too, or 'foreign' ones too
-- Returns {result, gen, state before, counter, seq, at, takes, cancelled by, head, answers, and as it was accepted:
-- digest, body, spec, cancelled body, parent, cancel_after_ms, and what was claimed for it:
-- tokens, money, organisation, address; who had it, and its predecessor}: missing, over, held, foreign, taken. A turn
-- that was queued or parked keeps that state until it is sealed, so that whoever takes it again knows.

local T, turn, nonce, claim = KEYS[3], ARGV[2], ARGV[3], ARGV[6]
local t = redis.call('HMGET', T, 'state', 'nonce', 'lease_replid', 'counter', 'seq', 'at', 'cancel_by',
  'digest', 'body', 'spec', 'cancelled_body', 'parent', 'cancel_after_ms', 'claim_tokens', 'claim_nano', 'org',
  'address')
local state = t[1]
if not state then return {'missing'} end
if state == 'done' or state == 'error' then return {'over', GEN} end

if t[2] ~= nonce then
  if t[2] ~= '' and t[3] ~= REPLID then
    if claim ~= 'foreign' then return {'foreign', GEN} end
  elseif due_of(turn) > NOW then
    return {'held', GEN}
  elseif t[2] ~= '' and claim == 'ownerless' then
    return {'foreign', GEN}
  end
  if t[2] ~= '' then redis.call('HINCRBY', T, 'takes', 1) end
  redis.call('HSET', T, 'nonce', nonce, 'node', ARGV[4], 'lease_replid', REPLID, 'taken_from', t[2])
  redis.call('ZADD', LEASES, NOW + ARGV[5], member(turn))
end

return {'taken', GEN, state, tonumber(t[4]), tonumber(t[5]), tonumber(t[6]), tonumber(redis.call('HGET', T, 'takes') or 0),
  t[7] or '', HEAD, redis.call('HGETALL', asks_key(turn)), t[8], t[9], t[10], t[11], t[12], t[13],
  t[14] or '', t[15] or '', t[16] or '', t[17] or '',
  redis.call('HGET', T, 'taken_from') or '', turn_before(t[5])}
