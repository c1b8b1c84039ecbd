#!lua
-- Append a batch that ends in questions. The turn gives up its lease until all of them are answered.
--
-- KEYS  session, leases, turn, the owner's sessions, the partition's idle index
-- ARGV  as in _append.lua, then: until when to wait (ms since 1970), idle ms, and the requests
-- Returns {ok, gen, first seq, at, counter, cancelled by, next}, or as in _append.lua. `next` is the turn itself when a
-- cancel came before: nobody runs it any more, so somebody must take it and end it.

for i = next_arg + 2, #ARGV do
  redis.call('HSET', asks_key(turn), ARGV[i], '')
  redis.call('HINCRBY', T, 'waiting', 1)
end
local next_turn = cancel_by ~= '' and turn or ''
redis.call('HSET', T, 'state', 'parked', 'nonce', '', 'node', '', 'batch_next', next_turn)
redis.call('ZADD', LEASES, cancel_by ~= '' and 0 or ARGV[next_arg], member(turn))
touch(KEYS[4], KEYS[5], ARGV[next_arg + 1])
publish()
return {'ok', GEN, first, at, counter, cancel_by, next_turn}
