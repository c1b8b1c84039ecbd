-- In front of every script that knows a session: names of its keys, time, and whether its history may have been lost.
--
-- KEYS[1] the session's hash, from whose name all keys of the session are made; KEYS[2] its partition's lease index.
-- ARGV[1] a fresh gen, taken when the store's history may have been lost: Lua's own random numbers repeat after every
-- restart of the store.
--
-- The session's hash: gen, head, floor, replid, leaf, active, created_at, updated_at, watched_at, preview; and as JSON
-- text title and metadata.
-- The log: a stream, entry id `seq-0`; a delta is t p k x [c n l], any other entry a t y b [more fields].
-- A turn's hash: digest, body, spec, cancelled_body, parent, seq, at, accepted_state, accept_*, state, nonce, node,
-- lease_replid, counter, batch, batch_seq, batch_at, batch_next, cancel_by, takes, taken_from, waiting, record, end_*;
-- claim_tokens, claim_nano, org, address where it is counted.
-- The lease index: `owner:session:turn` by the time (ms) from which somebody should look after the turn; 0 when nobody
-- has it.

local SESSION, LEASES = KEYS[1], KEYS[2]
local LOG = SESSION .. ':log'

-- A server that lost writes, by a failover or a restart, has another replication id.
local info = redis.call('INFO', 'replication')
local at_id = string.find(info, 'master_replid:', 1, true) + 14
local REPLID = string.sub(info, at_id, at_id + 39)

local found = redis.call('HMGET', SESSION, 'gen', 'head', 'active', 'replid')
local GEN, HEAD, ACTIVE = found[1], tonumber(found[2] or 0), found[3] or ''
if GEN and found[4] ~= REPLID then
  GEN = ARGV[1]
  redis.call('HSET', SESSION, 'gen', GEN, 'replid', REPLID)
end

-- The time (ms), for scripts that always need it; others ask when they do.
local NOW

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function is_deleted()
  return redis.call('EXISTS', SESSION .. ':deleted') == 1
end

-- Whether nobody has the turn: whoever says that he took it did so in a history that is lost.
local function is_untaken(nonce, state)
  return nonce == '' and (state == 'running' or state == 'queued')
end
