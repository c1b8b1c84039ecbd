#!lua
-- Append one batch of a turn's entries. The hot path: it runs for every piece of every answer.
--
-- KEYS  session, leases, turn
-- ARGV  as in _append.lua
-- Returns {ok, gen, first seq, at, counter, cancelled by}, or as in _append.lua. `at` is 0 when nothing was stamped.

redis.call('HSET', SESSION, 'head', HEAD)
redis.call('PUBLISH', SESSION, GEN .. ' ' .. HEAD)
return {'ok', GEN, first, at, counter, cancel_by}
