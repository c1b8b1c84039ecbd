#!lua
-- Append one batch of a turn's entries. The hot path: it runs for every piece of every answer.
--
-- KEYS  session, leases, turn; when it ends or parks the turn also the owner's sessions and the partition's idle index
-- ARGV  gen, turn, nonce, batch, counter, mode ('' plain, 'done' or 'error' seals, 'park'), what the mode needs (the
--       final record, or until when to wait in ms), idle ms, then each entry: how many fields and values it has (less
--       than zero when it is to be stamped with the time), and these
-- Returns {result, gen, first seq, at, counter, cancelled by, next}; what is checked, in this order: gone, lost,
-- fenced, dup, sealed, regressed. The turn.asked entries of a batch that parks carry `request`.

local T = KEYS[3]
local turn, mode = ARGV[2], ARGV[6]

local t = redis.call('HMGET', T, 'nonce', 'batch', 'state', 'counter', 'cancel_by')
local state, cancel_by = t[3], t[5] or ''
if not state then
  return {is_deleted() and 'gone' or 'lost'}
end
-- A parked turn has no nonce any more; the batch that parked it is still known by its name.
if t[1] ~= ARGV[3] and not (state == 'parked' and t[2] == ARGV[4]) then
  return {'fenced', GEN}
end
if t[2] == ARGV[4] then
  local b = redis.call('HMGET', T, 'batch_seq', 'batch_at', 'batch_next')
  return {'dup', GEN, tonumber(b[1]), tonumber(b[2]), tonumber(t[4]), cancel_by, b[3] or ''}
end
if state == 'done' or state == 'error' then
  return {'sealed', GEN}
end
if t[4] ~= ARGV[5] then
  return {'regressed', GEN, 0, 0, tonumber(t[4])}
end

local first, at, count = HEAD + 1, 9, #ARGV
local terminal = 0
local add = redis.call
while at <= count do
  local size = tonumber(ARGV[at])
  HEAD = HEAD + 1
  terminal = at
  if size > 0 then
    add('XADD', LOG, HEAD .. '-0', unpack(ARGV, at + 1, at + size))
    at = at + size + 1
  else
    add('XADD', LOG, HEAD .. '-0', 'a', NOW, unpack(ARGV, at + 1, at - size))
    at = at - size + 1
  end
end
local counter = t[4] + HEAD - first + 1
redis.call('HSET', T, 'counter', counter, 'batch', ARGV[4], 'batch_seq', first, 'batch_at', NOW)
if mode == '' then
  redis.call('HSET', SESSION, 'head', HEAD)
  redis.call('PUBLISH', SESSION, GEN .. ' ' .. HEAD)
  return {'ok', GEN, first, NOW, counter, cancel_by, ''}
end

local next_turn = ''
if mode == 'park' then
  at = 9
  while at <= count do
    local size = math.abs(ARGV[at])
    for i = at + 1, at + size, 2 do
      if ARGV[i] == 'request' and redis.call('HSETNX', asks_key(turn), ARGV[i + 1], '') == 1 then
        redis.call('HINCRBY', T, 'waiting', 1)
      end
    end
    at = at + size + 1
  end
  redis.call('HSET', T, 'state', 'parked', 'nonce', '', 'node', '')
  -- A cancel that came before is not told to anyone who runs the turn: nobody does any more.
  next_turn = cancel_by ~= '' and turn or ''
  redis.call('ZADD', LEASES, cancel_by ~= '' and 0 or ARGV[7], member(turn))
else
  -- The terminal's fields stand as t, turn, y, type, b, body.
  next_turn = seal(turn, state, mode, ARGV[7], ARGV[terminal + 4], ARGV[terminal + 6])
end
redis.call('HSET', T, 'batch_next', next_turn)
redis.call('HSET', SESSION, 'updated_at', NOW)
redis.call('ZADD', KEYS[4], NOW, string.match(SESSION, '[^:]*$'))
redis.call('ZADD', KEYS[5], NOW + ARGV[8], string.sub(SESSION, 9))
publish()
return {'ok', GEN, first, NOW, counter, cancel_by, next_turn}
