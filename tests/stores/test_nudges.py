"""Subscriptions: what is heard, what a lost connection does, what waits unread."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.stores.making import SESSION, append, asking, batch, key, make_overdue, request
from tests.stores.server import StoreServer
from turnwire.core.log_values import Nudge, SessionKey
from turnwire.ports import Failure
from turnwire.stores.redis import nudges
from turnwire.stores.redis.link import Link
from turnwire.stores.redis.log import RedisSessionLog


async def following(log: RedisSessionLog) -> AsyncIterator[Nudge]:
    async with asyncio.timeout(10):
        async for nudge in log.nudges():
            yield nudge


async def next_of(log: RedisSessionLog) -> Nudge:
    """The next nudge. What waits behind it is lost, as for a reader that stops."""
    async with asyncio.timeout(10):
        return await anext(log.nudges())


async def test_a_watched_session_tells_of_every_growth_once_it_is_watched(
    log: RedisSessionLog, other: RedisSessionLog
) -> None:
    gen = (await other.accept_turn(request())).gen
    await log.watch(SESSION)
    await append(other, batch())

    assert await next_of(log) == Nudge("grown", SESSION, gen, 2)

    await other.cancel_turn(key(), "bob", "")
    assert (await next_of(log)).head == 3
    await append(other, asking(key(), "r1", counter=1))
    assert (await next_of(log)).head == 4


async def test_nudges_of_one_session_that_were_not_read_are_one(log: RedisSessionLog, other: RedisSessionLog) -> None:
    await other.accept_turn(request())
    await log.watch(SESSION)
    for counter in range(20):
        await append(other, batch(counter=counter))
    last = SessionKey("alice", "s2")
    await log.watch(last)
    await other.accept_turn(request(last.turn("t1")))

    heard: list[tuple[str, int]] = []
    async for nudge in following(log):
        assert nudge.key is not None
        heard.append((nudge.key.session, nudge.head))
        if nudge.key == last:
            break

    assert heard == [("s1", 21), ("s2", 1)]


async def test_a_cancel_that_is_repeated_tells_of_no_growth(log: RedisSessionLog, other: RedisSessionLog) -> None:
    second = SessionKey("alice", "s2")
    for session in (SESSION, second):
        await other.accept_turn(request(session.turn("t1")))
        await log.watch(session)
    await other.cancel_turn(key(), "bob", "")
    assert (await next_of(log)).key == SESSION

    await other.cancel_turn(key(), "bob", "")
    await append(other, batch(second.turn("t1")))

    assert (await next_of(log)).key == second


async def test_an_unwatched_session_is_silent(log: RedisSessionLog, other: RedisSessionLog) -> None:
    second = SessionKey("alice", "s2")
    for session in (SESSION, second):
        await other.accept_turn(request(session.turn("t1")))
        await log.watch(session)
    await log.unwatch(SESSION)

    for session in (SESSION, second):
        await append(other, batch(session.turn("t1")))

    assert (await next_of(log)).key == second


async def test_the_same_session_of_another_owner_is_silent(log: RedisSessionLog, other: RedisSessionLog) -> None:
    await log.watch(SESSION)
    await other.accept_turn(request(SessionKey("bob", "s1").turn("t1")))
    await other.accept_turn(request())

    assert (await next_of(log)).key == SESSION


async def test_a_cancel_reaches_the_node_that_holds_the_lease(
    log: RedisSessionLog, other: RedisSessionLog, server: StoreServer
) -> None:
    turn = SessionKey("a:b c/d", "s1").turn("t1")
    await log.accept_turn(request(turn))

    await other.cancel_turn(turn, "some body", "")

    assert await next_of(log) == Nudge("cancel", turn.session_key, turn="t1", by="some body")
    make_overdue(server, key())
    second = SessionKey("alice", "s2").turn("t1")
    await log.accept_turn(request(second))
    await other.accept_turn(request(second.session_key.turn("t2"), on_busy="interrupt", author="eve"))
    assert await next_of(log) == Nudge("cancel", second.session_key, turn="t1", by="eve")


async def test_deleting_a_session_tells_its_watchers_and_its_runner(
    log: RedisSessionLog, other: RedisSessionLog
) -> None:
    await log.accept_turn(request())
    await log.watch(SESSION)

    await other.delete_session(SESSION, "n")

    heard = [nudge async for nudge in _two(log)]
    assert [nudge.kind for nudge in heard if nudge.key == SESSION and nudge.kind != "cancel"] == ["deleted"]
    assert Nudge("cancel", SESSION, turn="t1", by="delete") in heard


async def _two(log: RedisSessionLog) -> AsyncIterator[Nudge]:
    seen = 0
    async for nudge in following(log):
        yield nudge
        seen += 1
        if seen == 2:
            return


async def test_after_a_lost_connection_it_says_reset_and_hears_again(
    log: RedisSessionLog, other: RedisSessionLog, server: StoreServer
) -> None:
    sessions = [SessionKey("alice", f"s{number}") for number in range(nudges.SUBSCRIBE_AT_ONCE + 3)]
    for session in sessions:
        await log.watch(session)
    with server.client() as client:
        assert client.execute_command("CLIENT", "KILL", "TYPE", "pubsub") == 2

    assert await next_of(log) == Nudge("reset")
    for session in (sessions[0], sessions[-1]):
        await other.accept_turn(request(session.turn("t1")))
        assert (await next_of(log)).key == session
    assert await next_of(other) == Nudge("reset")


async def test_watching_waits_for_a_connection_that_is_being_made(
    log: RedisSessionLog, other: RedisSessionLog, server: StoreServer
) -> None:
    with server.client() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    await next_of(log)  # reset: it knows of the loss and is connected again

    await log.watch(SESSION)
    await other.accept_turn(request())

    assert (await next_of(log)).key == SESSION


async def test_watching_without_a_store_fails_and_leaves_nothing_behind(
    own_server: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nudges, "READY_WAIT_MS", 50)
    async with RedisSessionLog(Link(own_server.url), node="here") as log:
        await log.watch(SessionKey("alice", "s2"))
        own_server.kill()
        with pytest.raises(Failure) as failure:
            await log.watch(SESSION)
        assert failure.value.kind == "store_away"
        own_server.start()

        assert await next_of(log) == Nudge("reset")
        await log.accept_turn(request())
        await log.accept_turn(request(SessionKey("alice", "s2").turn("t1")))
        assert (await next_of(log)).key == SessionKey("alice", "s2")


async def test_a_connection_that_only_looks_alive_is_noticed(
    server: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nudges, "PING_MS", 20)
    async with RedisSessionLog(Link(server.url, reply_ms=200), node="here") as log:
        wire = log._nudges._wire
        assert wire is not None
        wire.data_received = lambda data: None  # half open: nothing arrives any more

        assert await next_of(log) == Nudge("reset")


async def test_a_fault_that_would_end_the_nudges_silently_comes_out(
    log: RedisSessionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    async def read() -> None:
        async for _ in log.nudges():
            pass

    reading = asyncio.create_task(read())
    monkeypatch.setattr(log._nudges, "_subscribe_all", broken)
    assert log._nudges._wire is not None
    log._nudges._wire.close()
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(reading, 20)
