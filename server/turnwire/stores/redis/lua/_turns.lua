-- In front of the scripts that change turns, behind _quota.lua: their names, what they log, how they end.

local EMPTY_RECORD = '{"parts":[]}'
local UNSETTLED_MS = 10000
NOW = now()

-- The owner's quota and turns that run; no session has an empty name.
local OWNER = string.match(SESSION, '^.*:')
local QUOTA, RUNNING = OWNER .. ':quota', OWNER .. ':running'

local function turn_key(turn)
  return SESSION .. ':t:' .. turn
end

local function asks_key(turn)
  return SESSION .. ':a:' .. turn
end

-- The session key is `tw:{pp}:owner:session`: the first eight bytes are the partition's.
local function member(turn)
  return string.sub(SESSION, 9) .. ':' .. turn
end

local function session_id()
  return string.match(SESSION, '[^:]*$')
end

-- The turn of the session that was accepted before the one at `seq`, or ''.
local function turn_before(seq)
  return redis.call('ZREVRANGEBYSCORE', SESSION .. ':turns', '(' .. seq, '-inf', 'LIMIT', 0, 1)[1] or ''
end

-- When somebody should look after a turn.
local function due_of(turn)
  return tonumber(redis.call('ZSCORE', LEASES, member(turn)) or 0)
end

local function log_event(kind, turn, body, ...)
  HEAD = HEAD + 1
  redis.call('XADD', LOG, HEAD .. '-0', 'a', NOW, 't', turn, 'y', kind, 'b', body, ...)
end

-- Entries from `first` to the head, as the log has them. For a few of them only: passed through Lua they cost six times
-- as much as read directly.
local function logged_since(first)
  return redis.call('XRANGE', LOG, first .. '-0', HEAD .. '-0')
end

-- Store the new head and tell whoever watches. The last step of every script that logs. `more` is a further word of the
-- nudge, or nil.
local function publish(more)
  redis.call('HSET', SESSION, 'head', HEAD)
  redis.call('PUBLISH', SESSION, GEN .. ' ' .. HEAD .. (more and ' ' .. more or ''))
end

-- Cut a log that got long, but for its newest entries. Not while a turn is unfinished, because whoever takes that over
-- folds its entries; what is left of old turns is in their records.
local function trim(entries_max, entries_keep)
  if ACTIVE ~= '' or redis.call('LLEN', SESSION .. ':queue') > 0 then return end
  if redis.call('XLEN', LOG) <= tonumber(entries_max) then return end
  redis.call('XTRIM', LOG, 'MAXLEN', entries_keep)
  local oldest = redis.call('XRANGE', LOG, '-', '+', 'COUNT', 1)[1][1]
  redis.call('HSET', SESSION, 'floor', string.match(oldest, '^%d+'))
end

-- Note that the session was written to: `sessions` are its owner's, `idle` its partition's index. In the owner's list a
-- session only ever rises, also when the store's clock is set back, so that nobody who pages meets it twice.
local function touch(sessions, idle, idle_ms)
  redis.call('HSET', SESSION, 'updated_at', NOW)
  redis.call('ZADD', sessions, 'GT', NOW, session_id())
  redis.call('ZADD', idle, NOW + idle_ms, string.sub(SESSION, 9))
end

-- The turn runs, or waits for an answer: it has a place among its owner's until it ends.
local function activate(turn)
  redis.call('HSET', SESSION, 'active', turn)
  redis.call('ZADD', RUNNING, '+inf', session_id() .. ':' .. turn)
end

-- Note what a turn has used that is over. What it had claimed of an organisation's or an address's quota, which are in
-- other slots, its node settles; this says that it still has to be, in case that the node is gone.
local function settle(turn, tokens, nano)
  redis.call('ZREM', RUNNING, session_id() .. ':' .. turn)
  local claim = redis.call('HMGET', turn_key(turn), 'claim_tokens', 'claim_nano', 'org', 'address')
  if not claim[1] then return end
  quota_settle(QUOTA, claim, tokens, nano, NOW)
  if claim[3] ~= '' or claim[4] ~= '' then
    local told = table.concat({member(turn), claim[3], claim[4], claim[1], claim[2], tokens, nano}, ' ')
    redis.call('ZADD', string.sub(SESSION, 1, 7) .. '.unsettled', NOW + UNSETTLED_MS, told)
  end
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
      activate(turn)
      return turn
    end
  end
  redis.call('HSET', SESSION, 'active', '')
  return ''
end

-- End a turn whose terminal is the log's newest entry, and which has used so many tokens and so much money. The
-- promoted turn's name, or ''.
local function seal(turn, state, record, kind, body, tokens, nano)
  redis.call('HSET', turn_key(turn), 'state', state, 'record', record,
    'end_type', kind, 'end_body', body, 'end_seq', HEAD, 'end_at', NOW)
  redis.call('ZREM', LEASES, member(turn))
  redis.call('LREM', SESSION .. ':queue', 1, turn)
  settle(turn, tokens, nano)
  if ACTIVE ~= turn then return '' end
  return promote()
end

-- End a turn that never ran.
local function seal_cancelled(turn, body)
  log_event('turn.done', turn, body)
  seal(turn, 'done', EMPTY_RECORD, 'turn.done', body, 0, 0)
end

-- Store that a running or parked turn is to stop, and tell its holder: `body` is turn.cancelling's. Returns who was
-- told (a node, or '') and the turn when nobody has it and somebody should take it, else ''.
local function ask_to_stop(turn, by, body)
  local t = redis.call('HMGET', turn_key(turn), 'nonce', 'node', 'cancel_by')
  if not t[3] then
    redis.call('HSET', turn_key(turn), 'cancel_by', by)
    log_event('turn.cancelling', turn, body)
  end
  if t[1] == '' or due_of(turn) <= NOW then
    redis.call('ZADD', LEASES, 0, member(turn))
    return '', turn
  end
  redis.call('PUBLISH', 'tw:node:' .. t[2], member(turn) .. ' ' .. (t[3] or by))
  return t[2], ''
end
