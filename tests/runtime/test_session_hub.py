"""The hub on a real store: whatever way an entry comes, or does not, its readers see all of the log and only it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

from tests.stores.making import SESSION, SETTLED, append, batch, key, make_overdue, request, sealing, text
from tests.stores.server import StoreServer
from tests.support.waiting import until
from turnwire.core.entries import Delta, Event, Logged
from turnwire.ports import LogRange, Nudge, SessionKey, TurnKey
from turnwire.runtime.session_hub import WINDOW_ENTRIES_MAX, Feed, SessionHub
from turnwire.stores.redis.link import Link
from turnwire.stores.redis.log import RedisSessionLog
from turnwire_protocol.codec import JSON, MSGPACK


class Reading:
    """A cursor that counts how often it was woken, and lets a test wait for it."""

    def __init__(self) -> None:
        self.woken = asyncio.Event()

    def wake(self) -> None:
        self.woken.set()


class Hub(SessionHub):
    """With what it tells others kept for the test."""

    def __init__(self, log: RedisSessionLog, *, check_ms: int = 100_000, writes: bool = False) -> None:
        self.overdue: list[TurnKey] = []
        self.cancels: list[tuple[TurnKey, str]] = []
        self.resets = 0

        async def on_overdue(turn: TurnKey) -> None:
            self.overdue.append(turn)

        super().__init__(
            log,
            check_ms=check_ms,
            on_overdue=on_overdue,
            on_cancel=lambda turn, by: self.cancels.append((turn, by)),
            on_reset=self.on_reset,
            on_deleted=lambda _key: None,
            writes=lambda _key: writes,
        )

    def on_reset(self) -> None:
        self.resets += 1


async def reached(feed: Feed, seq: int) -> None:
    await until(lambda: feed.tail >= seq)


def texts(logged: list[Logged]) -> list[str]:
    return [entry.entry.text for entry in logged if isinstance(entry.entry, Delta)]


@pytest.fixture
async def nudged(log: RedisSessionLog) -> AsyncIterator[Hub]:
    """A hub that follows nudges and checks nothing by itself."""
    hub = Hub(log)
    following = asyncio.create_task(hub.follow_nudges())
    yield hub
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_what_another_node_appends_arrives_by_a_nudge(nudged: Hub, other: RedisSessionLog) -> None:
    reader = Reading()
    feed = await nudged.attach(SESSION, reader)
    assert (feed.gen, feed.tail) == (None, 0)
    accepted = await other.accept_turn(request())
    await asyncio.wait_for(reader.woken.wait(), 5)
    await append(other, batch(entries=text(key(), "a", "b")))
    await reached(feed, 3)
    assert feed.gen == accepted.gen
    assert texts(list(feed.after(1) or ())) == ["a", "b"]


async def test_a_lost_nudge_is_made_up_by_the_check(log: RedisSessionLog, other: RedisSessionLog) -> None:
    hub = Hub(log, check_ms=50)  # nobody follows its nudges: every one of them is lost
    await other.accept_turn(request())
    feed = await hub.attach(SESSION, Reading())
    checking = asyncio.create_task(hub.check_forever())
    await append(other, sealing())
    await reached(feed, 3)
    checking.cancel()
    await asyncio.gather(checking, return_exceptions=True)


async def test_the_check_tells_of_a_turn_whose_lease_ran_out(log: RedisSessionLog, other: RedisSessionLog) -> None:
    hub = Hub(log, check_ms=50)
    await other.accept_turn(request())
    await hub.attach(SESSION, Reading())
    checking = asyncio.create_task(hub.check_forever())
    await until(lambda: hub.overdue)
    assert hub.overdue[0] == key()
    checking.cancel()
    await asyncio.gather(checking, return_exceptions=True)


async def test_a_gap_before_ones_own_append_is_read_from_the_log(log: RedisSessionLog, other: RedisSessionLog) -> None:
    hub = Hub(log, writes=True)
    accepted = await log.accept_turn(request())
    feed = await hub.attach(SESSION, Reading())
    # Another node's cancel takes a place that this node's appends did not give.
    await other.cancel_turn(key(), "bob", "")
    answer = await append(log, batch(entries=text(key(), "a")))
    hub.feed(SESSION, accepted.gen, [Logged(answer.first_seq, answer.first_seq, text(key(), "a")[0])])
    await reached(feed, 3)
    found = list(feed.after(1) or ())
    assert [entry.seq for entry in found] == [2, 3]
    assert isinstance(found[0].entry, Event) and found[0].entry.type == "turn.cancelling"


async def test_entries_that_come_twice_or_late_are_taken_once(log: RedisSessionLog) -> None:
    hub = Hub(log)
    accepted = await log.accept_turn(request())
    feed = await hub.attach(SESSION, Reading())
    pieces = [Logged(seq, seq, Delta("t1", 0, "text", str(seq))) for seq in (2, 3, 4)]
    hub.feed(SESSION, accepted.gen, pieces[:2])
    hub.feed(SESSION, accepted.gen, pieces)
    hub.feed(SESSION, accepted.gen, pieces[:1])
    assert texts(list(feed.after(1) or ())) == ["2", "3", "4"]


async def test_another_gen_begins_a_feed_anew(log: RedisSessionLog) -> None:
    hub = Hub(log)
    accepted = await log.accept_turn(request())
    reader = Reading()
    feed = await hub.attach(SESSION, reader)
    hub.feed(SESSION, accepted.gen, [Logged(2, 2, Delta("t1", 0, "text", "old"))])
    hub.feed(SESSION, "another_gen", [Logged(7, 7, Delta("t1", 0, "text", "new"))])
    assert (feed.gen, feed.tail) == ("another_gen", 7)
    assert feed.after(2) is None
    assert texts(list(feed.after(6) or ())) == ["new"]


async def test_a_store_that_lost_its_history_is_noticed_by_live_readers(
    own_store: StoreServer, log_on_own_store: RedisSessionLog
) -> None:
    hub = Hub(log_on_own_store, check_ms=50)
    accepted = await log_on_own_store.accept_turn(request())
    feed = await hub.attach(SESSION, Reading())
    checking = asyncio.create_task(hub.check_forever())
    own_store.kill()
    own_store.start()
    await until(lambda: feed.gen != accepted.gen)
    assert feed.gen is not None
    checking.cancel()
    await asyncio.gather(checking, return_exceptions=True)


async def test_whoever_comes_to_a_session_finds_that_its_turn_is_overdue(
    log: RedisSessionLog, server: StoreServer
) -> None:
    hub = Hub(log)
    await log.accept_turn(request())
    make_overdue(server, key())
    await hub.attach(SESSION, Reading())
    assert hub.overdue == [key()]


async def test_a_long_history_stays_in_the_log_and_not_in_memory(log: RedisSessionLog) -> None:
    hub = Hub(log)
    accepted = await log.accept_turn(request())
    feed = await hub.attach(SESSION, Reading())
    count = WINDOW_ENTRIES_MAX + 50
    pieces = text(key(), *(f"{number}" for number in range(count)))
    answer = await append(log, batch(entries=pieces))
    hub.feed(SESSION, accepted.gen, [Logged(seq, seq, piece) for seq, piece in enumerate(pieces, answer.first_seq)])
    assert feed.after(1) is None
    found = await hub.read(SESSION, 1)
    assert texts(list(found.entries)) == [f"{number}" for number in range(count)]


async def test_what_was_missed_while_the_subscription_was_lost_is_read_when_it_is_back(
    log: RedisSessionLog, other: RedisSessionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing_but_its_return() -> AsyncIterator[Nudge]:
        yield Nudge("reset")

    hub = Hub(log)
    await other.accept_turn(request())
    feed = await hub.attach(SESSION, Reading())
    await append(other, batch())
    monkeypatch.setattr(log, "nudges", nothing_but_its_return)
    await hub.follow_nudges()
    assert feed.reading is not None
    await asyncio.wait_for(feed.reading, 5)
    assert (feed.tail, hub.resets) == (2, 1)


async def test_a_feed_that_is_behind_what_the_log_has_cut_off_starts_anew(
    log: RedisSessionLog, server: StoreServer
) -> None:
    hub = Hub(log)
    gen = (await log.accept_turn(request())).gen
    feed = await hub.attach(SESSION, Reading())
    limits = replace(SETTLED, log_entries_max=10, log_entries_keep=3)
    async with RedisSessionLog(Link(server.url), node="there", limits=limits) as other:
        await append(other, batch(entries=text(key(), *"abcdefghijkl")))
        await append(other, sealing(counter=12))
        await other.accept_turn(request(key("t2")))
    head = (await log.read_range(SESSION, 0, 1)).head
    hub.catch_up(feed)
    await until(lambda: feed.tail == head)
    assert feed.gen == gen and feed.after(head) == () and feed.after(1) is None


async def test_a_cancel_on_another_node_is_told_to_the_runner(nudged: Hub, log: RedisSessionLog, other: object) -> None:
    await log.accept_turn(request())
    assert isinstance(other, RedisSessionLog)
    await other.cancel_turn(key(), "bob", "")
    await until(lambda: nudged.cancels)
    assert nudged.cancels == [(key(), "bob")]


async def test_the_last_cursor_ends_the_feed_and_a_new_one_begins_at_the_head(
    nudged: Hub, other: RedisSessionLog
) -> None:
    first, second = Reading(), Reading()
    feed = await nudged.attach(SESSION, first)
    assert await nudged.attach(SESSION, second) is feed
    await nudged.detach(SESSION, first)
    await nudged.detach(SESSION, first)
    await other.accept_turn(request())
    await reached(feed, 1)
    await nudged.detach(SESSION, second)
    await nudged.detach(SESSION, second)
    await append(other, batch())
    again = await nudged.attach(SESSION, first)
    assert again is not feed and again.tail == 2
    # Attaching and leaving at the same time leaves one truth: the last change holds.
    await asyncio.gather(nudged.detach(SESSION, first), nudged.attach(SESSION, second))
    assert (await nudged.attach(SESSION, first)).readers == {first, second}


async def test_two_that_come_at_the_same_time_stand_on_one_feed(nudged: Hub, other: RedisSessionLog) -> None:
    first, second = Reading(), Reading()
    feeds = await asyncio.gather(nudged.attach(SESSION, first), nudged.attach(SESSION, second))
    assert feeds[0] is feeds[1] and feeds[0].readers == {first, second}
    await other.accept_turn(request())
    await reached(feeds[0], 1)


async def test_a_frame_is_encoded_once_for_all_viewers(log: RedisSessionLog) -> None:
    hub = Hub(log)
    feed = await hub.attach(SessionKey("alice", "s"), Reading())
    piece = Logged(2, 2, Delta("t1", 0, "text", "a"))
    assert feed.encoded(JSON, piece) is not feed.encoded(JSON, piece)
    feed.readers.add(Reading())
    once = feed.encoded(JSON, piece)
    assert feed.encoded(JSON, piece) is once
    assert feed.encoded(JSON, piece) != feed.encoded(MSGPACK, piece)
    for seq in range(3, 500):
        feed.encoded(JSON, Logged(seq, seq, piece.entry))
    assert feed.encoded(JSON, piece) is not once  # frames of before are not kept for ever


async def test_a_nudge_of_what_is_known_already_reads_nothing(
    log: RedisSessionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def twice() -> AsyncIterator[Nudge]:
        for _ in range(2):
            yield Nudge("grown", SESSION, accepted.gen, 1)

    accepted = await log.accept_turn(request())
    hub = Hub(log)
    feed = await hub.attach(SESSION, Reading())
    monkeypatch.setattr(log, "nudges", twice)
    await hub.follow_nudges()
    assert (feed.tail, feed.reading) == (1, None)


async def test_a_nudge_that_comes_when_nobody_watches_any_more_is_none(
    log: RedisSessionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def late() -> AsyncIterator[Nudge]:
        yield Nudge("grown", SESSION, "gen", 1)
        yield Nudge("cancel", SESSION, turn="t1", by="bob")

    hub = Hub(log)
    monkeypatch.setattr(log, "nudges", late)
    await hub.follow_nudges()
    assert hub.cancels == [(key(), "bob")]


async def test_whoever_leaves_while_the_check_asks_is_not_in_its_way(
    log: RedisSessionLog, other: RedisSessionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking, go = asyncio.Event(), asyncio.Event()
    ask = log.note_watched

    async def slow(keys: Sequence[SessionKey]) -> Sequence[LogRange]:
        asking.set()
        await go.wait()
        return await ask(keys)

    hub = Hub(log, check_ms=50)
    reader, second = Reading(), SessionKey("alice", "second")
    await hub.attach(SESSION, reader)
    feed = await hub.attach(second, reader)
    monkeypatch.setattr(log, "note_watched", slow)
    checking = asyncio.create_task(hub.check_forever())
    await asking.wait()
    await hub.detach(SESSION, reader)
    await other.accept_turn(request(TurnKey("alice", "second", "t1")))
    go.set()
    await reached(feed, 1)
    checking.cancel()
    await asyncio.gather(checking, return_exceptions=True)


async def test_another_history_that_has_more_than_was_seen_is_shown_at_once(
    server: StoreServer, other: RedisSessionLog
) -> None:
    """The node has just come up; but a log that is longer than what was seen has nothing of it to get back."""
    async with RedisSessionLog(Link(server.url), node="here") as log:
        hub = Hub(log)
        feed = await hub.attach(SESSION, Reading())
        accepted = await other.accept_turn(request())
        hub.catch_up(feed)
        assert feed.reading is not None
        await asyncio.wait_for(feed.reading, 5)
        assert (feed.gen, feed.tail) == (accepted.gen, 1)
        assert log.unsettled


async def test_nobody_waits_for_more_than_was_seen(server: StoreServer) -> None:
    """The node has just come up, so the store may have lost something, but nothing that anybody knows of."""
    async with RedisSessionLog(Link(server.url), node="here") as log:
        await log.accept_turn(request())
        hub = Hub(log)
        assert (await asyncio.wait_for(hub.place(SESSION, 1), 5)).head == 1
        assert await asyncio.wait_for(hub.has(key()), 5)
        assert log.unsettled


async def test_nothing_is_read_for_a_new_turn_once_the_store_has_settled(
    log: RedisSessionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(log)
    await log.accept_turn(request())
    await hub.attach(SESSION, Reading())
    await until(lambda: not log.unsettled)
    monkeypatch.setattr(log, "read_range", None)  # whoever called it would fail
    await hub.is_back(SESSION)
