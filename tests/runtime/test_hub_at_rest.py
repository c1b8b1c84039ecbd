"""What the hub makes of a rename and of a deletion: who has all before it sees it, nobody sees anything behind it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

from tests.runtime.test_session_hub import Hub, Reading, reached
from tests.stores.making import SESSION, SETTLED, append, batch, key, request, text, types
from tests.stores.server import StoreServer
from tests.support.waiting import until
from turnwire.core.entries import Event, Logged
from turnwire.core.log_values import LogRange, SessionChange, SessionKey
from turnwire.runtime.session_hub import Feed
from turnwire.stores.redis.link import Link
from turnwire.stores.redis.log import RedisSessionLog

TITLE = SessionChange(title=b'"Sky"')


@pytest.fixture
async def nudged(log: RedisSessionLog) -> AsyncIterator[Hub]:
    """A hub that follows nudges and checks nothing by itself."""
    async for hub in following(Hub(log)):
        yield hub


@pytest.fixture
async def writing(log: RedisSessionLog) -> AsyncIterator[Hub]:
    """The same on a node that runs the session's turn."""
    async for hub in following(Hub(log, writes=True)):
        yield hub


async def following(hub: Hub) -> AsyncIterator[Hub]:
    task = asyncio.create_task(hub.follow_nudges())
    yield hub
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def seen(feed: Feed, after: int) -> list[tuple[str, str | None]] | None:
    found = feed.after(after)
    return None if found is None else types(found)


async def test_a_rename_on_another_node_arrives_also_where_the_turn_runs(writing: Hub, other: RedisSessionLog) -> None:
    await other.accept_turn(request())
    feed = await writing.attach(SESSION, Reading())
    await other.update_session(SESSION, TITLE)
    await reached(feed, 2)
    assert seen(feed, 1) == [("session.updated", None)]


async def test_a_turn_that_another_node_queues_or_cancels_arrives_also_where_the_active_one_runs(
    writing: Hub, other: RedisSessionLog
) -> None:
    await other.accept_turn(request())
    feed = await writing.attach(SESSION, Reading())
    await other.accept_turn(request(key("t_2"), on_busy="queue"))
    await reached(feed, 2)
    await other.cancel_turn(key("t_2"), "ada", "")
    await reached(feed, 3)
    assert seen(feed, 1) == [("turn.accepted", "t_2"), ("turn.done", "t_2")]


async def test_a_deletion_comes_behind_all_that_was_logged(nudged: Hub, other: RedisSessionLog) -> None:
    gen = (await other.accept_turn(request())).gen
    reader = Reading()
    feed = await nudged.attach(SESSION, reader)
    await append(other, batch())
    await reached(feed, 2)
    reader.woken.clear()

    deleted = await other.delete_session(SESSION, "n")

    await asyncio.wait_for(reader.woken.wait(), 5)
    assert deleted is not None
    assert (feed.deleted, feed.gen, feed.tail) == (True, gen, 3)
    assert seen(feed, 1) == [("turn.delta", "t1"), ("session.deleted", None)]
    (entry,) = list(feed.after(2) or ())
    assert (entry.seq, entry.first_seq) == (deleted.seq, deleted.seq)
    assert isinstance(entry.entry, Event) and entry.entry.at == deleted.at


async def test_a_feed_that_lacks_what_was_before_the_deletion_becomes_a_session_that_is_not_there(
    log: RedisSessionLog, other: RedisSessionLog
) -> None:
    hub = Hub(log)
    await other.accept_turn(request())
    feed = await hub.attach(SESSION, Reading())
    await append(other, batch())  # nobody follows the nudges
    deleted = await other.delete_session(SESSION, "n")
    assert deleted is not None
    hub.end(SESSION, deleted.gen, deleted.seq, deleted.at)
    await until(lambda: feed.gen is None)
    assert (feed.deleted, feed.tail, seen(feed, 0)) == (False, 0, [])


async def test_a_deletion_in_another_history_needs_no_look_at_the_log(
    log: RedisSessionLog, other: RedisSessionLog
) -> None:
    hub = Hub(log)
    await other.accept_turn(request())
    feed = await hub.attach(SESSION, Reading())
    hub.end(SESSION, "another-history", 7, 0)
    assert (feed.gen, feed.tail) == (None, 0)


async def test_nothing_that_was_appended_is_no_news_in_whichever_history(
    log: RedisSessionLog, other: RedisSessionLog
) -> None:
    """A turn that was sent twice appends nothing the second time; meanwhile the store may have another history."""
    hub = Hub(log)
    gen = (await other.accept_turn(request())).gen
    feed = await hub.attach(SESSION, Reading())
    hub.feed(SESSION, "another-history", [])
    assert (feed.gen, feed.tail) == (gen, 1)


async def test_a_deletion_waits_for_what_this_node_has_appended_itself(writing: Hub, log: RedisSessionLog) -> None:
    """The nudge of a deletion overtakes the replies to appends that were stored before it."""
    gen = (await log.accept_turn(request())).gen
    feed = await writing.attach(SESSION, Reading())
    pieces = text(key(), "a", "b")
    await append(log, batch(entries=pieces))
    deleted = await log.delete_session(SESSION, "n")
    assert deleted is not None
    writing.end(SESSION, deleted.gen, deleted.seq, deleted.at)
    assert not feed.deleted and feed.tail == 1
    assert feed.reading is None

    writing.feed(SESSION, gen, [Logged(2, 2, pieces[0])])
    assert not feed.deleted
    writing.feed(SESSION, gen, [Logged(3, 3, pieces[1])])

    assert feed.deleted
    assert seen(feed, 1) == [("turn.delta", "t1"), ("turn.delta", "t1"), ("session.deleted", None)]
    writing.end(SESSION, deleted.gen, deleted.seq, deleted.at)
    assert feed.tail == 4


async def test_a_deletion_of_another_history_is_none_of_this_one(log: RedisSessionLog) -> None:
    hub = Hub(log)
    await log.accept_turn(request())
    feed = await hub.attach(SESSION, Reading())
    hub.end(SESSION, "another_gen", 2, 1)
    assert (feed.gen, feed.deleted, feed.tail) == (None, False, 0)


async def test_a_lost_nudge_of_a_deletion_is_made_up_and_a_deleted_session_stays_so(
    log: RedisSessionLog, other: RedisSessionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(log, check_ms=20)
    kept = Hub(log, check_ms=20)
    await other.accept_turn(request())
    unaware, told = await hub.attach(SESSION, Reading()), await kept.attach(SESSION, Reading())
    deleted = await other.delete_session(SESSION, "n")
    assert deleted is not None
    kept.end(SESSION, deleted.gen, deleted.seq, deleted.at)
    reader = Reading()
    told.readers.add(reader)
    looks = 0
    note_watched = log.note_watched

    async def counted(keys: Sequence[SessionKey]) -> Sequence[LogRange]:
        nonlocal looks
        looks += 1
        return await note_watched(keys)

    monkeypatch.setattr(log, "note_watched", counted)
    checks = [asyncio.create_task(each.check_forever()) for each in (hub, kept)]
    await until(lambda: unaware.gen is None and looks > 6)
    for check in checks:
        check.cancel()
    await asyncio.gather(*checks, return_exceptions=True)
    assert told.deleted and told.gen == deleted.gen
    assert not reader.woken.is_set()


async def test_a_session_that_is_made_again_is_another_one_for_its_old_readers(server: StoreServer) -> None:
    async with RedisSessionLog(Link(server.url), node="here", limits=replace(SETTLED, deleted_ms=1)) as log:
        hub = Hub(log, check_ms=20)
        await log.accept_turn(request())
        feed = await hub.attach(SESSION, Reading())
        deleted = await log.delete_session(SESSION, "n")
        assert deleted is not None
        hub.end(SESSION, deleted.gen, deleted.seq, deleted.at)
        while (again := await log.accept_turn(request())).result == "deleted":
            pass
        checking = asyncio.create_task(hub.check_forever())
        await until(lambda: feed.gen == again.gen)
        assert not feed.deleted
        checking.cancel()
        await asyncio.gather(checking, return_exceptions=True)


async def test_a_deleted_session_is_not_read_any_more_and_stays_deleted_when_it_is(
    log: RedisSessionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(log, check_ms=20)
    await log.accept_turn(request())
    feed = await hub.attach(SESSION, Reading())
    deleted = await log.delete_session(SESSION, "n")
    assert deleted is not None
    hub.end(SESSION, deleted.gen, deleted.seq, deleted.at)
    hub.catch_up(feed)  # as after a subscription that was lost
    assert feed.reading is not None
    await feed.reading
    assert feed.deleted and feed.gen == deleted.gen

    looks = 0
    note_watched = log.note_watched

    async def counted(keys: Sequence[SessionKey]) -> Sequence[LogRange]:
        nonlocal looks
        looks += 1
        return await note_watched(keys)

    reading = feed.reading
    monkeypatch.setattr(log, "note_watched", counted)
    checking = asyncio.create_task(hub.check_forever())
    await until(lambda: looks > 3)
    checking.cancel()
    await asyncio.gather(checking, return_exceptions=True)
    assert feed.reading is reading
