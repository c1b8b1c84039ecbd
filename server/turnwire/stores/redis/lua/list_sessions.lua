#!lua flags=allow-oom
-- An owner's sessions, the one that was written to last first. Those that are not there any more leave the list.
--
-- KEYS  the owner's sessions
-- ARGV  how many, and the place to go on behind: time and session, both '' to begin
-- Returns {sessions, time, session}: each session as {session, summary}, and the last place that was looked at, '' and
-- '' when it was the end. The place is a time and a name, not a rank: sessions that rise meanwhile move no other.

local SESSIONS = KEYS[1]
local LOOKS_MAX = 500

-- All keys of an owner begin alike.
local PREFIX = string.sub(SESSIONS, 1, -1 - #':sessions')

-- By bytes, as a sorted set orders them; Lua's own comparison goes by the store's locale.
local function is_less(one, other)
  for i = 1, math.min(#one, #other) do
    local a, b = string.byte(one, i), string.byte(other, i)
    if a ~= b then return a < b end
  end
  return #one < #other
end

-- The rank of the first session behind the place. Of those with one time, the greatest name stands first.
local rank = 0
if ARGV[2] ~= '' then
  rank = redis.call('ZCOUNT', SESSIONS, '(' .. ARGV[2], '+inf')
  local past = rank + redis.call('ZCOUNT', SESSIONS, ARGV[2], ARGV[2])
  while rank < past do
    local middle = math.floor((rank + past) / 2)
    if is_less(redis.call('ZREVRANGE', SESSIONS, middle, middle)[1], ARGV[3]) then
      past = middle
    else
      rank = middle + 1
    end
  end
end

local wanted, first = tonumber(ARGV[1]), rank
local found, gone, at, session = {}, {}, '', ''
while #found < wanted and rank - first < LOOKS_MAX do
  local some = redis.call('ZREVRANGE', SESSIONS, rank, rank + wanted - #found - 1, 'WITHSCORES')
  if #some == 0 then break end
  for i = 1, #some, 2 do
    session, at = some[i], some[i + 1]
    local known = summary(PREFIX .. session)
    if known then
      found[#found + 1] = {session, known}
    else
      gone[#gone + 1] = session
    end
  end
  rank = rank + #some / 2
end
if rank >= redis.call('ZCARD', SESSIONS) then at, session = '', '' end
if #gone > 0 then redis.call('ZREM', SESSIONS, unpack(gone)) end
return {found, at, session}
