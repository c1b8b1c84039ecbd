#!lua flags=no-writes
-- What is due in some indexes: members whose score is a time that has passed, the longest overdue first.
--
-- KEYS  indexes of any number of partitions
-- ARGV  how many members of each index at most
-- Returns members and scores, alternating.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = {}
for _, index in ipairs(KEYS) do
  local found = redis.call('ZRANGE', index, '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1], 'WITHSCORES')
  for _, value in ipairs(found) do due[#due + 1] = value end
end
return due
