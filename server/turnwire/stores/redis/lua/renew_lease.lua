#!lua flags=allow-oom
-- Hold on to a turn.
--
-- KEYS  session, leases, turn
-- ARGV  gen, turn, nonce, lease ms
-- Returns {gone}, {lost}, {fenced, holder as in _append.lua}, {sealed}, {ok, cancelled by, ms for which nobody watched}.

local t = redis.call('HMGET', KEYS[3], 'nonce', 'state', 'cancel_by', 'at', 'lease_replid')
if not t[2] then
  return {is_deleted() and 'gone' or 'lost'}
end
if t[1] ~= ARGV[3] then
  if is_untaken(t[1], t[2]) then return {'lost'} end
  return {'fenced', t[5] ~= REPLID and t[1] or ''}
end
if t[2] == 'done' or t[2] == 'error' then return {'sealed'} end
redis.call('HSET', KEYS[3], 'lease_replid', REPLID)
redis.call('ZADD', LEASES, NOW + ARGV[4], member(ARGV[2]))
local watched_at = tonumber(redis.call('HGET', SESSION, 'watched_at') or 0)
return {'ok', t[3] or '', math.max(0, NOW - math.max(watched_at, tonumber(t[4])))}
