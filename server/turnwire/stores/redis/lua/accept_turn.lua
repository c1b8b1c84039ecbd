#!lua
-- Store a turn, and give its lease, its place in the queue, or its end. Or give it back to a writer that was running it
-- when the store lost that: what is gone of it, the writer then appends.
--
-- KEYS  session, leases, turn, the owner's sessions, the owner's pending cancels, the partition's idle index
-- ARGV  gen, turn, nonce, digest, body, spec, cancelled body, parent ('leaf', 'root' or '=turn'), on_busy, author,
--       node, lease ms, body of turn.cancelling, cancel_after_ms or '', queue max, queue wait ms, log max, log keep,
--       idle ms, preview or '', 'put_back' for a turn that the store has lost and whose writer has it, else '',
--       organisation or '', address or '', what others than the owner say of it: '' nothing, 'wait' it may but wait in
--       the queue, 'refuse'; and of the owner's quota six limits and two of an estimate, or '' for a turn that is not
--       counted; of a turn that is put back, who had it before its writer took it, or '', and the turn that must be there
--       before it, or ''
-- Returns {result, gen, seq, parent, entries, interrupted, next, what is left of six limits, predecessor}. The same
-- nonce again is answered from what was stored. What is refused ('conflict', 'queue_full', 'deleted', 'no_parent',
-- 'too_early'; 'busy' with the active turn, 'limited' with the number of the owner's limit and a wait in ms, or 0 for
-- another's limit) leaves no trace.

local T = KEYS[3]
local turn, nonce, digest, body, by = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[10]

local put_back = ARGV[21] ~= ''
local limits, estimate = {unpack(ARGV, 25, 30)}, {ARGV[31], ARGV[32]}
local counted = ARGV[31] ~= ''

local function left()
  return counted and quota_left(QUOTA, RUNNING, limits, NOW) or {}
end

local function own()
  redis.call('HSET', T, 'nonce', nonce, 'node', ARGV[11], 'lease_replid', REPLID)
  redis.call('ZADD', LEASES, NOW + ARGV[12], member(turn))
end

if is_deleted() then return {'deleted'} end

local known = redis.call('HMGET', T, 'digest', 'accept_nonce', 'accept_result', 'seq', 'parent', 'accept_first',
  'interrupted', 'accept_next')
if known[1] then
  local seq = tonumber(known[4])
  if known[2] == nonce then
    local last = known[3] == 'sealed' and seq + 1 or seq
    local entries = redis.call('XRANGE', LOG, known[6] .. '-0', last .. '-0')
    return {known[3], GEN, seq, known[5], entries, known[7], known[8], left(), turn_before(seq)}
  end
  if put_back then
    local t = redis.call('HMGET', T, 'nonce', 'state', 'lease_replid')
    -- Whoever had it before has done nothing since the take was lost, so it may be taken from it again.
    local lost_take = ARGV[33] ~= '' and t[1] == ARGV[33] and t[3] ~= REPLID and t[2] == 'running'
    if is_untaken(t[1], t[2]) or lost_take then
      if t[2] == 'queued' then return {'busy', ACTIVE} end
      own()
      return {'running', GEN, seq, known[5], {}, '', '', {}, ''}
    end
    if t[1] == nonce then return {'running', GEN, seq, known[5], {}, '', '', {}, ''} end
  end
  if known[1] ~= digest then return {'conflict'} end
  return {'duplicate', GEN, seq, known[5], {}, '', '', left(), ''}
end

if ARGV[34] ~= '' and redis.call('EXISTS', turn_key(ARGV[34])) == 0 then return {'too_early'} end

local parent = ''
if ARGV[8] == 'leaf' then
  parent = redis.call('HGET', SESSION, 'leaf') or ''
elseif ARGV[8] ~= 'root' then
  parent = string.sub(ARGV[8], 2)
  if redis.call('EXISTS', turn_key(parent)) == 0 then
    if not put_back then return {'no_parent'} end
    -- Lost, too: the turn hangs on what is left.
    parent = redis.call('HGET', SESSION, 'leaf') or ''
  end
end

local QUEUE = SESSION .. ':queue'
local cancelled_until = tonumber(redis.call('ZSCORE', KEYS[5], session_id() .. ':' .. turn) or 0)
local state = ACTIVE == '' and 'running' or 'queued'
local result = state
if cancelled_until > NOW and not put_back then
  result = 'sealed'
elseif state == 'queued' then
  if ARGV[9] == 'reject' then return {'busy', ACTIVE} end
  if ARGV[9] == 'queue' and redis.call('LLEN', QUEUE) >= tonumber(ARGV[15]) then return {'queue_full'} end
end

if not put_back and result ~= 'sealed' then
  local runs = result == 'running'
  if ARGV[24] == 'refuse' or (runs and ARGV[24] == 'wait') then return {'limited', 0, 0} end
  local limit, wait = quota_refusal(QUOTA, RUNNING, limits, estimate, NOW, runs)
  if limit then return {'limited', limit, wait} end
end

if not GEN then
  GEN = ARGV[1]
  redis.call('HSET', SESSION, 'gen', GEN, 'replid', REPLID, 'floor', 0, 'created_at', NOW)
else
  trim(ARGV[17], ARGV[18])
end
if ARGV[20] ~= '' then redis.call('HSETNX', SESSION, 'preview', ARGV[20]) end

local first = HEAD + 1
local interrupted, next_turn = '', ''
if result == 'queued' and ARGV[9] == 'interrupt' then
  for _, waiting in ipairs(redis.call('LRANGE', QUEUE, 0, -1)) do
    local w = redis.call('HMGET', turn_key(waiting), 'nonce', 'cancelled_body')
    if w[1] == '' then seal_cancelled(waiting, w[2]) end
  end
  interrupted = ACTIVE
  local _
  _, next_turn = ask_to_stop(ACTIVE, by, ARGV[13])
end

log_event('turn.accepted', turn, body, 'parent', parent, 'state', state)
local seq = HEAD
redis.call('HSET', T, 'digest', digest, 'body', body, 'spec', ARGV[6], 'cancelled_body', ARGV[7], 'parent', parent,
  'seq', seq, 'at', NOW, 'accepted_state', state, 'accept_nonce', nonce, 'accept_result', result,
  'accept_first', first, 'interrupted', interrupted, 'accept_next', next_turn, 'cancel_after_ms', ARGV[14],
  'state', state, 'nonce', '', 'node', '', 'counter', 0)
if counted then
  redis.call('HSET', T, 'claim_tokens', estimate[1], 'claim_nano', estimate[2], 'org', ARGV[22], 'address', ARGV[23])
  quota_claim(QUOTA, limits, estimate, NOW)
end
if result == 'running' then
  own()
  activate(turn)
  if cancelled_until > NOW then
    redis.call('ZREM', KEYS[5], session_id() .. ':' .. turn)
    ask_to_stop(turn, by, ARGV[13])
  end
elseif result == 'queued' then
  redis.call('RPUSH', QUEUE, turn)
  redis.call('ZADD', LEASES, NOW + ARGV[16], member(turn))
else
  redis.call('ZREM', KEYS[5], session_id() .. ':' .. turn)
  seal_cancelled(turn, ARGV[7])
end

redis.call('ZADD', SESSION .. ':turns', seq, turn)
redis.call('HSET', SESSION, 'leaf', turn)
touch(KEYS[4], KEYS[6], ARGV[19])
-- Beside a running turn, whose node hears of nothing but its own appends.
publish(result ~= 'running' and 'aside')
return {result, GEN, seq, parent, logged_since(first), interrupted, next_turn, left(), turn_before(seq)}
