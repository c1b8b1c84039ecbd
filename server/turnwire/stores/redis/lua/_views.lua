-- In front of the scripts that read turns whole.

-- A turn as {turn, state, parent, seq, at, body, accepted state, spec, record, end type, end body, end seq, end at},
-- and how many bytes of it grow with what people and models write. False when there is no such turn.
local function whole_turn(turn)
  local t = redis.call('HMGET', turn_key(turn), 'state', 'parent', 'seq', 'at', 'body', 'accepted_state', 'spec',
    'record', 'end_type', 'end_body', 'end_seq', 'end_at')
  if not t[1] then return false, 0 end
  local whole = {turn}
  for i = 1, 12 do whole[i + 1] = t[i] or '' end
  return whole, #whole[6] + #whole[8] + #whole[9]
end

local function is_over(whole)
  return whole[2] == 'done' or whole[2] == 'error'
end
