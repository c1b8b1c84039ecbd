"""The journal on a real store: what it appends is in the log once and in order, whatever the store answers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from tests.stores.making import SESSION, key, make_overdue, request
from tests.stores.server import StoreServer
from tests.support.waiting import PATIENCE_S, until
from turnwire.app import SystemClock
from turnwire.core.entries import Delta, Event, Logged
from turnwire.core.merge import merge_logged
from turnwire.ports import Appended, Batch, Seal, SessionKey, TurnKey
from turnwire.runtime.journal import Journal
from turnwire.runtime.writer import ENTRIES_MAX, PENDING_CHARS_MAX, Ending, Stopped, Writer
from turnwire.stores.redis.log import RedisSessionLog

RECORD = b'{"parts":[]}'

Append = Callable[[Sequence[Batch]], Awaitable[Sequence[Appended]]]


class Gated(RedisSessionLog):
    """A log whose appends the test holds, and whose replies it loses after the store has carried them out."""

    def __init__(self, log: RedisSessionLog) -> None:
        self.__dict__.update(log.__dict__)
        self.open = asyncio.Event()
        self.open.set()
        self.lose = 0
        self.sent: list[Sequence[Batch]] = []
        self._arrived = asyncio.Event()

    async def arrival(self) -> None:
        """Wait for the first append."""
        async with asyncio.timeout(PATIENCE_S):
            await self._arrived.wait()

    async def append_many(self, batches: Sequence[Batch]) -> Sequence[Appended]:
        return await self._held(super().append_many, batches)

    async def seal_many(self, batches: Sequence[Batch]) -> Sequence[Appended]:
        return await self._held(super().seal_many, batches)

    async def _held(self, append: Append, batches: Sequence[Batch]) -> Sequence[Appended]:
        self.sent.append(batches)
        self._arrived.set()
        await self.open.wait()
        answers = await append(batches)
        if self.lose:
            self.lose -= 1
            return [Appended("away")] * len(batches)
        return answers


class Fed:
    """What the journal fed to the hub."""

    def __init__(self) -> None:
        self.logged: list[Logged] = []

    def __call__(self, _key: SessionKey, _gen: str, logged: Sequence[Logged]) -> None:
        self.logged.extend(logged)


async def nobody_is_in_the_way(_turn: TurnKey) -> None:
    raise AssertionError


@pytest.fixture
async def gated(log: RedisSessionLog) -> Gated:
    return Gated(log)


@pytest.fixture
def fed() -> Fed:
    return Fed()


@pytest.fixture
async def journal(gated: Gated, fed: Fed) -> AsyncIterator[Journal]:
    journal = Journal(gated, fed, nobody_is_in_the_way, SystemClock(), grace_ms=300)
    running = asyncio.create_task(journal.run())
    yield journal
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def started(journal: Journal, log: RedisSessionLog) -> Writer:
    await log.accept_turn(request())
    return journal.writer(request(), "nonce-t1")


def piece(text: str, part: int = 0) -> Delta:
    return Delta("t1", part, "text", text)


def ending() -> Ending:
    return Ending([Event("turn.done", "t1", b'{"parts":[]}')], Seal("done", RECORD))


async def end(writer: Writer) -> Appended:
    """The answer to the writer's ending. In good time: a journal that has died answers nobody."""
    async with asyncio.timeout(PATIENCE_S):
        return await writer.end(ending())


async def stopped(writer: Writer) -> tuple[Stopped, str]:
    """Why the writer's producer should stop, once it should."""
    async with asyncio.timeout(PATIENCE_S):
        return await asyncio.shield(writer.stopped)


async def text_in_log(log: RedisSessionLog) -> str:
    found = await log.read_range(SESSION, 0, 100_000)
    return "".join(entry.entry.text for entry in found.entries if isinstance(entry.entry, Delta))


async def test_deltas_merge_while_an_append_is_out_and_no_sooner(journal: Journal, gated: Gated, fed: Fed) -> None:
    writer = await started(journal, gated)
    gated.open.clear()
    writer.append(piece("a"))
    await gated.arrival()
    for letter in "bcd":
        writer.append(piece(letter))
    writer.append(piece("e", part=1))
    gated.open.set()
    await end(writer)
    assert [[getattr(entry, "text", "end") for entry in batches[0].entries] for batches in gated.sent] == [
        ["a"],
        ["bcd", "e", "end"],
    ]
    assert [entry.seq for entry in fed.logged] == [2, 3, 4, 5]


async def test_a_lost_reply_while_more_deltas_merge_appends_nothing_twice(
    journal: Journal, gated: Gated, fed: Fed
) -> None:
    writer = await started(journal, gated)
    gated.lose = 3
    for number in range(200):
        writer.append(piece(f"{number} "))
        if number % 20 == 0:
            await asyncio.sleep(0)
    answer = await end(writer)
    wanted = "".join(f"{number} " for number in range(200))
    assert await text_in_log(gated) == wanted
    assert answer.result in ("ok", "dup")
    # What was fed is the log, in order and without holes.
    found = await gated.read_range(SESSION, 1, 100_000)
    assert merge_logged(fed.logged) == merge_logged(found.entries)
    # The batch whose reply was lost went out again byte for byte.
    assert gated.sent[0] == gated.sent[1] == gated.sent[2] == gated.sent[3]


async def test_nothing_is_fed_before_the_store_has_answered(journal: Journal, gated: Gated, fed: Fed) -> None:
    writer = await started(journal, gated)
    gated.open.clear()
    writer.append(piece("a"))
    await gated.arrival()
    assert fed.logged == []
    gated.open.set()
    await end(writer)
    assert len(fed.logged) == 2


async def test_a_producer_waits_while_the_journal_is_behind(journal: Journal, gated: Gated) -> None:
    writer = await started(journal, gated)
    gated.open.clear()
    writer.append(piece("a"))
    await gated.arrival()
    writer.append(piece("x" * (PENDING_CHARS_MAX + 1)))
    waiting = asyncio.create_task(writer.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    gated.open.set()
    await asyncio.wait_for(waiting, PATIENCE_S)
    await end(writer)


async def test_another_writer_stops_this_one_and_nothing_of_it_gets_in(
    journal: Journal, gated: Gated, fed: Fed, other: RedisSessionLog, server: StoreServer
) -> None:
    writer = await started(journal, gated)
    writer.append(piece("mine "))
    await until(lambda: fed.logged)
    make_overdue(server, key())
    assert (await other.take_turn(key(), "nonce-other")).result == "taken"
    writer.append(piece("late"))
    assert (await stopped(writer))[0] == "fenced"
    # What its producer still says goes nowhere, and makes it wait for nothing.
    writer.append(piece("x" * (PENDING_CHARS_MAX + 1)))
    await asyncio.wait_for(writer.room(), 5)
    assert (await end(writer)).result == "fenced"
    assert await text_in_log(gated) == "mine "


async def test_nothing_goes_in_between_the_last_word_and_the_end(journal: Journal, gated: Gated) -> None:
    writer = await started(journal, gated)
    gated.open.clear()
    writer.append(piece("all "))
    await gated.arrival()
    finishing = asyncio.create_task(end(writer))
    await asyncio.sleep(0)
    writer.append(piece("more"))
    gated.open.set()
    assert (await finishing).result == "ok"
    assert await text_in_log(gated) == "all "


async def test_a_stored_cancel_is_told_with_the_next_append(journal: Journal, gated: Gated) -> None:
    writer = await started(journal, gated)
    await gated.cancel_turn(key(), "bob", "")
    writer.append(piece("a"))
    assert await stopped(writer) == ("cancel", "bob")
    assert (await end(writer)).result == "ok"


async def test_a_full_store_stops_the_answer_and_still_takes_its_end(
    journal: Journal, gated: Gated, fed: Fed, server: StoreServer
) -> None:
    writer = await started(journal, gated)
    writer.append(piece("kept "))
    await until(lambda: fed.logged)
    with server.client() as client:
        client.config_set("maxmemory", "1mb")
    for number in range(ENTRIES_MAX + 10):
        writer.append(piece("a" if number % 2 else "b", part=number % 2))
    assert (await stopped(writer))[0] == "full"
    assert (await end(writer)).result == "ok"
    # The whole rest went in with the terminal.
    assert await text_in_log(gated) == "kept " + "ba" * ((ENTRIES_MAX + 10) // 2)


async def test_a_store_that_stays_away_stops_the_answer_and_takes_its_end_when_it_is_back(
    journal: Journal, gated: Gated
) -> None:
    writer = await started(journal, gated)
    gated.lose = 1_000_000
    writer.append(piece("a"))
    assert (await stopped(writer))[0] == "store_away"
    finishing = asyncio.create_task(end(writer))
    await asyncio.sleep(0)
    assert not finishing.done()
    gated.lose = 0
    assert (await asyncio.wait_for(finishing, 10)).result in ("ok", "dup")
    assert await text_in_log(gated) == "a"


async def test_three_hundred_turns_share_pipelines(journal: Journal, gated: Gated) -> None:
    """Appends of many turns leave together: the fewer round trips, the cheaper each token."""
    writers: list[Writer] = []
    for number in range(300):
        turn = key(session=SessionKey("alice", f"s{number}"))
        await gated.accept_turn(request(turn))
        writers.append(journal.writer(request(turn), "nonce-t1"))
    for round_number in range(5):
        for writer in writers:
            writer.append(piece(f"{round_number}"))
        await asyncio.sleep(0)
    await asyncio.gather(*(end(writer) for writer in writers))
    assert len(gated.sent) < 20
    for writer in writers:
        found = await gated.read_range(writer.key.session_key, 0, 100)
        assert "".join(entry.entry.text for entry in found.entries if isinstance(entry.entry, Delta)) == "01234"
