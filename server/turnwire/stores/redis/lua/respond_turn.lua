#!lua
-- Answer what a parked turn asked; the first answer to a request wins.
--
-- KEYS  session, leases, turn
-- ARGV  gen, turn, request, by, value, body of turn.responded
-- Returns {result, gen, entries, take}: ok, not_found (the turn is unknown, ending or over, or another answer was
-- first), not_asked. The very same answer again is ok and changes nothing.

local T, turn, request, by = KEYS[3], ARGV[2], ARGV[3], ARGV[4]
local t = redis.call('HMGET', T, 'state', 'nonce', 'cancel_by', 'waiting')
if not t[1] then return {'not_found'} end

local asks = asks_key(turn)
local value = redis.call('HGET', asks, request)
if not value then return {'not_asked', GEN} end
if value ~= '' then
  if value ~= ARGV[5] or redis.call('HGET', asks, request .. ':by') ~= by then return {'not_found', GEN} end
  -- The turn waits for somebody to take it when all was answered and nobody has come yet.
  local due = t[1] == 'running' and t[2] == '' and turn or ''
  return {'ok', GEN, {}, due}
end
-- A turn that waits for this is parked; unless somebody has it, in order to end it, or it was cancelled.
if t[2] ~= '' or t[3] then return {'not_found', GEN} end

local first, take = HEAD + 1, ''
redis.call('HSET', asks, request, ARGV[5], request .. ':by', by)
log_event('turn.responded', turn, ARGV[6])
if redis.call('HINCRBY', T, 'waiting', -1) == 0 then
  redis.call('HSET', T, 'state', 'running')
  redis.call('ZADD', LEASES, 0, member(turn))
  take = turn
end
publish()
return {'ok', GEN, logged_since(first), take}
