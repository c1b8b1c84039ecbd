-- In front of the scripts that remove a session.

-- Remove all keys of the session, and tell whoever watches or runs it. KEYS[3] the owner's sessions, KEYS[4] the
-- partition's idle index.
local function forget()
  local turns = SESSION .. ':turns'
  if ACTIVE ~= '' then
    redis.call('PUBLISH', 'tw:node:' .. redis.call('HGET', turn_key(ACTIVE), 'node'), member(ACTIVE) .. ' delete')
  end
  for _, turn in ipairs(redis.call('ZRANGE', turns, 0, -1)) do
    redis.call('ZREM', LEASES, member(turn))
    redis.call('UNLINK', turn_key(turn), asks_key(turn))
  end
  redis.call('UNLINK', SESSION, LOG, turns, SESSION .. ':queue')
  redis.call('ZREM', KEYS[3], session_id())
  redis.call('ZREM', KEYS[4], string.sub(SESSION, 9))
  -- No gen and no head: the session is not there any more.
  redis.call('PUBLISH', SESSION, ' 0')
end
