#!lua flags=allow-oom
-- A session as of its head: its newest turns, and every unfinished one.
--
-- KEYS  session, leases
-- ARGV  gen, how many turns, bytes of finished turns at most (the newest is always there)
-- Returns {gen, head, oldest, turns, floor, fields of the entry at the head, leaf}, or nothing for a session that is
-- not there. Turns stand newest first; `oldest` is where the oldest unfinished one of them was accepted, else head + 1.

if not GEN then return {} end

local wanted, names = {}, {}
local function want(turn)
  if not wanted[turn] then
    wanted[turn] = true
    names[#names + 1] = turn
  end
end
if tonumber(ARGV[2]) > 0 then
  for _, turn in ipairs(redis.call('ZREVRANGE', SESSION .. ':turns', 0, ARGV[2] - 1)) do want(turn) end
end
want(ACTIVE)  -- which may be nobody's name: there is no such turn then
for _, turn in ipairs(redis.call('LRANGE', SESSION .. ':queue', 0, -1)) do want(turn) end

local turns, bytes, oldest = {}, 0, HEAD + 1
for i, turn in ipairs(names) do
  local whole, size = whole_turn(turn)
  if whole then
    if is_over(whole) then
      bytes = bytes + size
    else
      oldest = math.min(oldest, tonumber(whole[4]))
    end
    if not is_over(whole) or i == 1 or bytes <= tonumber(ARGV[3]) then turns[#turns + 1] = whole end
  end
end

local at_head = redis.call('XREVRANGE', LOG, '+', '-', 'COUNT', 1)[1]
local s = redis.call('HMGET', SESSION, 'floor', 'leaf')
return {GEN, HEAD, oldest, turns, tonumber(s[1]), at_head and at_head[2] or {}, s[2] or ''}
