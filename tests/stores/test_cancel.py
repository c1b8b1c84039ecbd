"""cancel_turn: one row for each state that a turn can be in."""

import pytest

from tests.stores.conftest import LIMITS
from tests.stores.making import SESSION, append, asking, entries_of, key, make_overdue, request, sealing, types
from tests.stores.server import StoreServer
from turnwire.core.log_values import SessionKey
from turnwire.stores.redis.log import RedisSessionLog


async def test_a_running_turn_is_asked_to_stop_once_and_its_node_is_told(log: RedisSessionLog) -> None:
    await log.accept_turn(request())

    cancelled = await log.cancel_turn(key(), "bob", "why")

    assert (cancelled.result, cancelled.node, cancelled.take) == ("cancelling", "here", None)
    assert types(cancelled.logged) == [("turn.cancelling", "t1")]
    assert cancelled.logged[0].entry.body == b'{"by":"bob"}'  # type: ignore[union-attr]
    again = await log.cancel_turn(key(), "eve", "")
    assert (again.result, again.node, again.logged) == ("cancelling", "here", [])
    assert (await log.renew_leases([(key(), "nonce-t1")]))[0].cancel_by == "bob"
    assert len(await entries_of(log)) == 2


async def test_a_queued_turn_ends_at_once(log: RedisSessionLog) -> None:
    await log.accept_turn(request())
    for turn in ("t2", "t3"):
        await log.accept_turn(request(key(turn), on_busy="queue"))

    cancelled = await log.cancel_turn(key("t2"), "bob", "")

    assert (cancelled.result, cancelled.node, cancelled.take) == ("cancelling", None, None)
    assert types(cancelled.logged) == [("turn.done", "t2")]
    assert cancelled.logged[0].entry.body == request().cancelled_body  # type: ignore[union-attr]
    assert (await log.cancel_turn(key("t2"), "bob", "")).result == "already_done"
    assert (await append(log, sealing())).next == "t3"


@pytest.mark.parametrize("state", ["parked", "promoted", "overdue"])
async def test_a_turn_that_nobody_runs_is_named_to_be_taken_and_ended(
    log: RedisSessionLog, server: StoreServer, state: str
) -> None:
    await log.accept_turn(request())
    if state == "parked":
        await append(log, asking(key(), "r1"))
    elif state == "promoted":
        await log.accept_turn(request(key("t0"), on_busy="queue"))
        await append(log, sealing())
    else:
        make_overdue(server, key())
    turn = key("t0" if state == "promoted" else "t1")

    cancelled = await log.cancel_turn(turn, "bob", "")

    assert (cancelled.result, cancelled.node, cancelled.take) == ("cancelling", None, turn.turn)
    assert types(cancelled.logged) == [("turn.cancelling", turn.turn)]
    again = await log.cancel_turn(turn, "bob", "")
    assert (again.take, again.logged) == (turn.turn, [])
    assert await log.overdue_turns(5) == [turn]
    assert (await log.take_turn(turn, "n")).cancel_by == "bob"
    assert (await append(log, sealing(turn, nonce="n", counter=int(state == "parked")))).result == "ok"


async def test_a_turn_that_is_over_stays_as_it_ended(log: RedisSessionLog, server: StoreServer) -> None:
    await log.accept_turn(request())
    await append(log, sealing())
    before = server.contents()

    assert (await log.cancel_turn(key(), "bob", "")).result == "already_done"
    assert server.contents() == before


async def test_cancels_of_turns_that_do_not_exist_are_bounded_for_each_owner(log: RedisSessionLog) -> None:
    for number in range(LIMITS.pending_cancels_max):
        assert (await log.cancel_turn(key(f"t{number}"), "alice", "")).result == "pending"

    assert (await log.cancel_turn(key("one-more"), "alice", "")).result == "too_many_pending"
    assert (await log.cancel_turn(key("t0"), "alice", "")).result == "pending"
    assert (await log.cancel_turn(SessionKey("bob", "s1").turn("t1"), "bob", "")).result == "pending"
    assert (await log.read_view(SESSION, 1)).gen is None


async def test_a_pending_cancel_is_for_its_own_session_only(log: RedisSessionLog) -> None:
    await log.cancel_turn(SessionKey("alice", "s2").turn("t1"), "alice", "")

    assert (await log.accept_turn(request())).result == "running"


async def test_a_pending_cancel_is_forgotten_after_its_time(log: RedisSessionLog, server: StoreServer) -> None:
    await log.cancel_turn(key(), "alice", "")
    with server.client() as client:
        (name,) = client.keys("*:cancels")
        assert 0 < client.pttl(name) <= LIMITS.pending_cancel_ms
        client.zadd(name, {"s1:t1": 1}, xx=True)

    assert (await log.accept_turn(request())).result == "running"


async def test_forgotten_cancels_make_room_for_others(log: RedisSessionLog, server: StoreServer) -> None:
    turns = [f"t{number}" for number in range(LIMITS.pending_cancels_max)]
    for turn in turns:
        await log.cancel_turn(key(turn), "alice", "")
    with server.client() as client:
        (name,) = client.keys("*:cancels")
        client.zadd(name, {f"s1:{turn}": 1 for turn in turns}, xx=True)

    assert (await log.cancel_turn(key("one-more"), "alice", "")).result == "pending"


async def test_a_cancel_leaves_a_turn_that_waited_too_long_to_whoever_is_ending_it(
    log: RedisSessionLog, other: RedisSessionLog, server: StoreServer
) -> None:
    await log.accept_turn(request())
    await log.accept_turn(request(key("t2"), on_busy="queue"))
    make_overdue(server, key("t2"))
    assert (await other.take_turn(key("t2"), "n2")).state == "queued"

    cancelled = await log.cancel_turn(key("t2"), "bob", "")

    assert (cancelled.result, cancelled.take) == ("cancelling", None)
    assert types(cancelled.logged) == [("turn.cancelling", "t2")]
    assert (await append(other, sealing(key("t2"), nonce="n2", state="error"))).result == "ok"
