-- In front of the scripts that append a batch of a turn's entries: the checks, in their order, and the entries.
--
-- KEYS[3] the turn's hash. ARGV  gen, turn, nonce, batch, counter, how many entries, then each entry: how many fields
-- and values it has (less than zero when it is to be stamped with the time), and these. What a script needs besides
-- stands behind them.
-- Answers what is refused or in already: {gone}, {lost}, {lost, gen}, {fenced, gen, holder}, {dup, gen, first seq, at,
-- counter, cancelled by, next}, {sealed, gen}, {regressed, gen, counter}. The holder is named if it has done nothing yet
-- since the store's history changed: whoever took the turn from it may find that the store has lost that.

local T, turn = KEYS[3], ARGV[2]

local t = redis.call('HMGET', T, 'nonce', 'batch', 'state', 'counter', 'cancel_by', 'lease_replid')
local state, cancel_by = t[3], t[5] or ''
if not state then
  return {is_deleted() and 'gone' or 'lost'}
end
-- A parked turn has no nonce any more; the batch that parked it is still known by its name.
if t[1] ~= ARGV[3] and not (state == 'parked' and t[2] == ARGV[4]) then
  if is_untaken(t[1], state) then return {'lost', GEN} end
  return {'fenced', GEN, t[6] ~= REPLID and t[1] or ''}
end
if t[2] == ARGV[4] then
  local batch = redis.call('HMGET', T, 'batch_seq', 'batch_at', 'batch_next')
  return {'dup', GEN, tonumber(batch[1]), tonumber(batch[2]), tonumber(t[4]), cancel_by, batch[3] or ''}
end
if state == 'done' or state == 'error' then
  return {'sealed', GEN}
end
if t[4] ~= ARGV[5] then
  return {'regressed', GEN, tonumber(t[4])}
end

local first, at, next_arg = HEAD + 1, 0, 7
for _ = 1, tonumber(ARGV[6]) do
  local size = tonumber(ARGV[next_arg])
  HEAD = HEAD + 1
  if size > 0 then
    redis.call('XADD', LOG, HEAD .. '-0', unpack(ARGV, next_arg + 1, next_arg + size))
  else
    size = -size
    if at == 0 then at = NOW or now() end
    redis.call('XADD', LOG, HEAD .. '-0', 'a', at, unpack(ARGV, next_arg + 1, next_arg + size))
  end
  next_arg = next_arg + size + 1
end
local counter = t[4] + HEAD - first + 1
redis.call('HSET', T, 'counter', counter, 'batch', ARGV[4], 'batch_seq', first, 'batch_at', at, 'lease_replid', REPLID)
