#!lua flags=no-writes
-- A session as a list shows it.
--
-- KEYS  session
-- Returns {title, preview, metadata, created at, updated at}, or nothing for a session that is not there.

return summary(KEYS[1]) or {}
