#!lua
-- Change what a session is called, or the data that is kept with it, and log it.
--
-- KEYS  session, leases, the owner's sessions, the partition's idle index
-- ARGV  gen, title and metadata as JSON text ('' leaves what is there), idle ms, log max, log keep
-- Returns {gen, entries, summary}, or nothing for a session that is not there. What changes nothing logs nothing, so the
-- same change again, after a lost reply, is in already.

if not GEN then return {} end

local s = redis.call('HMGET', SESSION, 'title', 'metadata')
local old_title, old_metadata = s[1] or 'null', s[2] or '{}'
local title = ARGV[2] ~= '' and ARGV[2] or old_title
local metadata = ARGV[3] ~= '' and ARGV[3] or old_metadata
local first = HEAD + 1
if title ~= old_title or metadata ~= old_metadata then
  trim(ARGV[5], ARGV[6])
  redis.call('HSET', SESSION, 'title', title, 'metadata', metadata)
  log_event('session.updated', '', '{"title":' .. title .. ',"metadata":' .. metadata .. '}')
  touch(KEYS[3], KEYS[4], ARGV[4])
  publish('aside')
end
return {GEN, logged_since(first), summary(SESSION)}
