-- In front of the scripts that tell of sessions as a list shows them.

-- {title, preview, metadata, created at, updated at} of the session whose hash has this name, as far as they were set;
-- false when there is no such session.
local function summary(name)
  local s = redis.call('HMGET', name, 'gen', 'title', 'preview', 'metadata', 'created_at', 'updated_at')
  return s[1] and {s[2], s[3], s[4], s[5], s[6]}
end
