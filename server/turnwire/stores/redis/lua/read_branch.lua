#!lua flags=allow-oom
-- A turn and its ancestors, newest first.
--
-- KEYS  session, leases
-- ARGV  gen, turn, how many turns, bytes of their contents at most (the first is always there)
-- Returns {gen, head, oldest, turns}, or nothing for a session that is not there; `oldest` is where the oldest
-- unfinished one of the turns was accepted, else head + 1.

if not GEN then return {} end

local turns, bytes, oldest = {}, 0, HEAD + 1
local turn = ARGV[2]
while turn ~= '' and #turns < tonumber(ARGV[3]) do
  local whole, size = whole_turn(turn)
  bytes = bytes + size
  if not whole or (#turns > 0 and bytes > tonumber(ARGV[4])) then break end
  turns[#turns + 1] = whole
  if not is_over(whole) then oldest = math.min(oldest, tonumber(whole[4])) end
  turn = whole[3]
end
return {GEN, HEAD, oldest, turns}
