-- In front of the scripts that remove a session.

-- Remove all keys of the session; tell whoever runs it, and with `nudge` whoever watches it. KEYS[3] the owner's
-- sessions, KEYS[4] the partition's idle index.
local function forget(nudge)
  local turns = SESSION .. ':turns'
  if ACTIVE ~= '' then
    redis.call('PUBLISH', 'tw:node:' .. redis.call('HGET', turn_key(ACTIVE), 'node'), member(ACTIVE) .. ' delete')
  end
  for _, turn in ipairs(redis.call('ZRANGE', turns, 0, -1)) do
    local t = redis.call('HMGET', turn_key(turn), 'state', 'claim_tokens', 'claim_nano')
    if t[1] == 'queued' then
      settle(turn, 0, 0)
    elseif t[1] ~= 'done' and t[1] ~= 'error' then
      -- What it has used so far nobody knows here: as much as was claimed for it.
      settle(turn, t[2] or 0, t[3] or 0)
    end
    redis.call('ZREM', LEASES, member(turn))
    redis.call('UNLINK', turn_key(turn), asks_key(turn))
  end
  redis.call('UNLINK', SESSION, LOG, turns, SESSION .. ':queue')
  redis.call('ZREM', KEYS[3], session_id())
  redis.call('ZREM', KEYS[4], string.sub(SESSION, 9))
  redis.call('PUBLISH', SESSION, nudge)
end
