#!lua flags=allow-oom
-- Append a turn's last batch, whose last entry is the terminal, and start the next turn of the queue. A full store
-- takes it, or its turns could not end.
--
-- KEYS  session, leases, turn, the owner's sessions, the partition's idle index
-- ARGV  as in _append.lua, then: state ('done' or 'error'), the final record, the terminal's type and body, idle ms,
--       and what the turn has used, as tokens and money
-- Returns {ok, gen, first seq, at, counter, cancelled by, next}, or as in _append.lua. `next` is now to be run and has
-- no owner.

local next_turn = seal(turn, ARGV[next_arg], ARGV[next_arg + 1], ARGV[next_arg + 2], ARGV[next_arg + 3],
  ARGV[next_arg + 5], ARGV[next_arg + 6])
redis.call('HSET', T, 'batch_next', next_turn)
touch(KEYS[4], KEYS[5], ARGV[next_arg + 4])
publish()
return {'ok', GEN, first, at, counter, cancel_by, next_turn}
