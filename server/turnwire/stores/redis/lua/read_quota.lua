#!lua
-- What is left of a quota.
--
-- KEYS  quota, its turns that run
-- ARGV  six limits
-- Returns what is left of each.

return quota_left(KEYS[1], KEYS[2], ARGV, quota_now())
