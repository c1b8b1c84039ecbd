#!lua flags=allow-oom
-- Turns in the order in which they were accepted: the newest ones, or those before a turn.
--
-- KEYS  session, leases
-- ARGV  gen, before which turn ('' for the newest), how many, bytes of their contents at most (one is always there)
-- Returns {gen, head, oldest, turns, next}, or nothing for a session or turn that is not there. Turns stand newest
-- first; `next` is the last of them when older ones are left, else ''; `oldest` is where the oldest unfinished one of
-- them was accepted, else head + 1.

if not GEN then return {} end

local TURNS = SESSION .. ':turns'
local below = '+inf'
if ARGV[2] ~= '' then
  local seq = redis.call('ZSCORE', TURNS, ARGV[2])
  if not seq then return {} end
  below = '(' .. seq
end

local wanted = tonumber(ARGV[3])
local names = redis.call('ZREVRANGEBYSCORE', TURNS, below, '-inf', 'LIMIT', 0, wanted + 1)
local turns, bytes, oldest, next_turn = {}, 0, HEAD + 1, ''
for i, turn in ipairs(names) do
  local whole, size = whole_turn(turn)
  bytes = bytes + size
  if i > wanted or (i > 1 and bytes > tonumber(ARGV[4])) then
    next_turn = names[i - 1]
    break
  end
  if whole then
    turns[#turns + 1] = whole
    if not is_over(whole) then oldest = math.min(oldest, tonumber(whole[4])) end
  end
end
return {GEN, HEAD, oldest, turns, next_turn}
