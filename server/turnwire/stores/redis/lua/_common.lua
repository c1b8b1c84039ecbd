-- In front of every script that knows a session: names of its keys, time, the history check, the log, ends of turns.
--
-- KEYS[1] the session's hash, from whose name all keys of the session are made; KEYS[2] its partition's lease index.
-- ARGV[1] a fresh gen, taken when the store's history may have been lost: Lua's own random numbers repeat after every
-- restart of the store.
--
-- The session's hash: gen, head, floor, replid, leaf, active, created_at, updated_at, watched_at.
-- The log: a stream, entry id `seq-0`; a delta is t p k x [c n l], any other entry a t y b [more fields].
-- A turn's hash: digest, body, spec, cancelled_body, parent, seq, at, accepted_state, accept_*, state, nonce, node,
-- lease_replid, counter, batch, batch_seq, batch_at, batch_next, cancel_by, takes, waiting, record, end_*.
-- The lease index: `owner:session:turn` by the time (ms) from which somebody should look after the turn; 0 when nobody
-- has it.

local SESSION, LEASES = KEYS[1], KEYS[2]
local LOG = SESSION .. ':log'
local EMPTY_RECORD = '{"parts":[]}'

local time = redis.call('TIME')
local NOW = time[1] * 1000 + math.floor(time[2] / 1000)
local REPLID = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)')

local found = redis.call('HMGET', SESSION, 'gen', 'head', 'active', 'replid')
local GEN, HEAD, ACTIVE = found[1], tonumber(found[2] or 0), found[3] or ''
if GEN and found[4] ~= REPLID then
  GEN = ARGV[1]
  redis.call('HSET', SESSION, 'gen', GEN, 'replid', REPLID)
end

local function turn_key(turn)
  return SESSION .. ':t:' .. turn
end

local function asks_key(turn)
  return SESSION .. ':a:' .. turn
end

local function is_deleted()
  return redis.call('EXISTS', SESSION .. ':deleted') == 1
end

-- The session key is `tw:{pp}:owner:session`: the first eight bytes are the partition's.
local function member(turn)
  return string.sub(SESSION, 9) .. ':' .. turn
end

local function log_event(kind, turn, body, ...)
  HEAD = HEAD + 1
  redis.call('XADD', LOG, HEAD .. '-0', 'a', NOW, 't', turn, 'y', kind, 'b', body, ...)
end

-- Entries from `first` to the head, as the log has them.
local function logged_since(first)
  if first > HEAD then return {} end
  return redis.call('XRANGE', LOG, first .. '-0', HEAD .. '-0')
end

-- Store the new head and tell whoever watches. The last step of every script that logs.
local function publish()
  redis.call('HSET', SESSION, 'head', HEAD)
  redis.call('PUBLISH', SESSION, GEN .. ' ' .. HEAD)
end

-- The head of the queue becomes the active turn, with a lease that nobody has. A turn in the queue that has a nonce ran
-- out of time and is being ended by whoever took it.
local function promote()
  local queue = SESSION .. ':queue'
  for _, turn in ipairs(redis.call('LRANGE', queue, 0, -1)) do
    if redis.call('HGET', turn_key(turn), 'nonce') == '' then
      redis.call('LREM', queue, 1, turn)
      redis.call('HSET', turn_key(turn), 'state', 'running')
      redis.call('ZADD', LEASES, 0, member(turn))
      redis.call('HSET', SESSION, 'active', turn)
      return turn
    end
  end
  redis.call('HSET', SESSION, 'active', '')
  return ''
end

-- End a turn whose terminal is the log's newest entry. The promoted turn's name, or ''.
local function seal(turn, was, state, record, kind, body)
  redis.call('HSET', turn_key(turn), 'state', state, 'record', record,
    'end_type', kind, 'end_body', body, 'end_seq', HEAD, 'end_at', NOW)
  redis.call('ZREM', LEASES, member(turn))
  if was == 'queued' then
    redis.call('LREM', SESSION .. ':queue', 1, turn)
  end
  if ACTIVE ~= turn then return '' end
  return promote()
end

-- End a turn that never ran.
local function seal_cancelled(turn, was, body)
  log_event('turn.done', turn, body)
  return seal(turn, was, 'done', EMPTY_RECORD, 'turn.done', body)
end

-- Store that a running or parked turn is to stop, and tell its holder: `body` is turn.cancelling's. Returns who was
-- told (a node, or '') and the turn when nobody has it and somebody should take it, else ''.
local function ask_to_stop(turn, by, body)
  local key = turn_key(turn)
  local t = redis.call('HMGET', key, 'state', 'nonce', 'node', 'cancel_by')
  if not t[4] then
    redis.call('HSET', key, 'cancel_by', by)
    log_event('turn.cancelling', turn, body)
  end
  local due = tonumber(redis.call('ZSCORE', LEASES, member(turn)) or 0)
  if t[2] == '' or due <= NOW then
    redis.call('ZADD', LEASES, 0, member(turn))
    return '', turn
  end
  redis.call('PUBLISH', 'tw:node:' .. t[3], member(turn) .. ' ' .. (t[4] or by))
  return t[3], ''
end
