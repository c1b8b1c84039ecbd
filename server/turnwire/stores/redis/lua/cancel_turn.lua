#!lua flags=allow-oom
-- Stop a turn, wherever it is in its life.
--
-- KEYS  session, leases, turn, the owner's pending cancels
-- ARGV  gen, turn, by, body of turn.cancelling, pending max, pending ms
-- Returns {result, gen, entries, node, take}: cancelling, already_done, pending, too_many_pending. A turn of a deleted
-- session is already_done: the deletion was its end. A turn that is not there yet is remembered, and is sealed when it
-- comes.

local turn, by = ARGV[2], ARGV[3]
local t = redis.call('HMGET', KEYS[3], 'state', 'nonce', 'cancelled_body')
local state = t[1]

if not state then
  if is_deleted() then return {'already_done', ''} end
  local pending = session_id() .. ':' .. turn
  redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', NOW)
  if not redis.call('ZSCORE', KEYS[4], pending) and redis.call('ZCARD', KEYS[4]) >= tonumber(ARGV[5]) then
    return {'too_many_pending', ''}
  end
  redis.call('ZADD', KEYS[4], NOW + ARGV[6], pending)
  redis.call('PEXPIRE', KEYS[4], ARGV[6])
  return {'pending', GEN or '', {}, '', ''}
end
if state == 'done' or state == 'error' then
  return {'already_done', GEN, {}, '', ''}
end

local first = HEAD + 1
local node, take = '', ''
if state == 'queued' and t[2] == '' then
  seal_cancelled(turn, t[3])
else
  node, take = ask_to_stop(turn, by, ARGV[4])
end
if HEAD >= first then publish('aside') end
return {'cancelling', GEN, logged_since(first), node, take}
