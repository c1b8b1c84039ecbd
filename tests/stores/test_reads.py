"""Reading: ranges, views, branches."""

import pytest

from tests.stores.making import RECORD, SESSION, append, batch, drop_replies, entries_of, key, request, sealing, text
from tests.stores.server import StoreServer
from turnwire.core.entries import Delta
from turnwire.core.log_values import LogRange, SessionView
from turnwire.ports import Failure
from turnwire.stores.redis import sessions
from turnwire.stores.redis.link import Link
from turnwire.stores.redis.log import LogLimits, RedisSessionLog


async def test_an_unknown_session_is_empty_and_reading_makes_none(log: RedisSessionLog, server: StoreServer) -> None:
    assert await log.read_view(SESSION, 5) == SessionView(None, 0, 0, None, None)
    assert await log.read_range(SESSION, 0, 5) == LogRange(None, 0, 0, None, True)
    assert await log.read_range(SESSION, 3, 5) == LogRange(None, 0, 0, None, False)
    assert await log.note_watched([SESSION]) == [LogRange(None, 0, 0, None, True)]
    assert await log.note_watched([]) == []
    assert await log.read_branch(key(), 5) == ()
    assert await log.overdue_turns(5) == []
    assert server.contents() == {}


async def test_a_range_begins_after_its_cursor_and_tells_what_stands_there(log: RedisSessionLog) -> None:
    gen = (await log.accept_turn(request())).gen
    await append(log, batch(entries=text(key(), *"abcde")))

    place = await log.read_range(SESSION, 2, 3)

    assert (place.gen, place.head, place.floor) == (gen, 6, 0)
    assert (place.turn_at, place.at_known) == ("t1", True)
    assert [entry.seq for entry in place.entries] == [3, 4, 5]
    assert [entry.seq for entry in (await log.read_range(SESSION, 0, 2)).entries] == [1, 2]
    at_head = await log.read_range(SESSION, 6, 5)
    assert (at_head.at_known, at_head.turn_at, at_head.entries) == (True, "t1", [])
    beyond = await log.read_range(SESSION, 7, 5)
    assert (beyond.at_known, beyond.turn_at, beyond.entries) == (False, None, [])


async def test_a_view_has_the_newest_turns_and_every_unfinished_one(log: RedisSessionLog) -> None:
    for turn in ("t1", "t2", "t3"):
        await log.accept_turn(request(key(turn)))
        await append(log, sealing(key(turn)))
    await log.accept_turn(request(key("t4")))
    for turn in ("t5", "t6"):
        await log.accept_turn(request(key(turn), on_busy="queue"))
    await append(log, batch(key("t4"), entries=text(key("t4"), "x", "y")))

    view = await log.read_view(SESSION, 1)
    assert [(turn.turn, turn.state) for turn in view.turns] == [
        ("t4", "running"),
        ("t5", "queued"),
        ("t6", "queued"),
    ]
    assert (view.leaf, view.turn_at_head, view.head) == ("t6", "t4", (await entries_of(log))[-1].seq)
    running = view.turns[0]
    assert [entry.seq for entry in running.entries] == [10, 13, 14]
    assert (running.parts, running.terminal, running.parent) == (None, None, "t3")
    assert running.accepted == running.entries[0]

    assert [turn.turn for turn in (await log.read_view(SESSION, 5)).turns] == ["t2", "t3", "t4", "t5", "t6"]
    assert len((await log.read_view(SESSION, 0)).turns) == 3
    done = (await log.read_view(SESSION, 9)).turns[0]
    assert (done.parts, done.entries, done.spec) == (RECORD, (), request().spec)


async def test_a_branch_is_the_turn_and_its_ancestors(log: RedisSessionLog) -> None:
    for turn, parent in (("t1", "root"), ("t2", ("t1",)), ("t3", ("t1",)), ("t4", ("t3",))):
        await log.accept_turn(request(key(turn), parent=parent))
        if turn != "t4":
            await append(log, sealing(key(turn)))
    await append(log, batch(key("t4")))

    branch = await log.read_branch(key("t4"), 9)

    assert [turn.turn for turn in branch] == ["t4", "t3", "t1"]
    assert [len(turn.entries) for turn in branch] == [2, 0, 0]
    assert branch[1].parts == RECORD
    assert [turn.turn for turn in await log.read_branch(key("t4"), 2)] == ["t4", "t3"]
    assert [turn.turn for turn in await log.read_branch(key("t2"), 9)] == ["t2", "t1"]
    assert list(await log.read_branch(key("t9"), 9)) == []


async def test_reads_leave_out_old_turns_that_weigh_too_much(log: RedisSessionLog, server: StoreServer) -> None:
    for turn in ("t1", "t2", "t3"):
        await log.accept_turn(request(key(turn)))
        await append(log, sealing(key(turn)))
    weight = len(request().body) + len(request().spec) + len(RECORD)

    for bytes_max, expected in ((0, ["t3"]), (2 * weight, ["t2", "t3"]), (3 * weight, ["t1", "t2", "t3"])):
        limits = LogLimits(read_bytes_max=bytes_max)
        async with RedisSessionLog(Link(server.url), node="narrow", limits=limits) as narrow:
            assert [turn.turn for turn in (await narrow.read_view(SESSION, 9)).turns] == expected
            assert [turn.turn for turn in await narrow.read_branch(key("t3"), 9)] == expected[::-1]


async def test_what_is_unfinished_is_there_whatever_the_finished_weighs(
    log: RedisSessionLog, server: StoreServer
) -> None:
    await log.accept_turn(request(key("t1")))
    await log.accept_turn(request(key("t2"), on_busy="queue"))
    await log.cancel_turn(key("t2"), "alice", "")
    async with RedisSessionLog(Link(server.url), node="narrow", limits=LogLimits(read_bytes_max=0)) as narrow:
        turns = (await narrow.read_view(SESSION, 9)).turns
    assert [(turn.turn, turn.state) for turn in turns] == [("t1", "running"), ("t2", "done")]


async def test_a_long_turn_is_read_in_pieces(log: RedisSessionLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "ENTRIES_AT_ONCE", 7)
    await log.accept_turn(request())
    await append(log, batch(entries=text(key(), *map(str, range(100)))))

    (turn,) = (await log.read_view(SESSION, 1)).turns

    assert [entry.entry.text for entry in turn.entries[1:] if isinstance(entry.entry, Delta)] == [
        str(number) for number in range(100)
    ]


async def test_a_view_is_read_anew_when_the_log_is_cut_meanwhile(
    log: RedisSessionLog, server: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.accept_turn(request())
    await append(log, batch())
    looks: list[int] = []
    look = sessions.SessionReads._look

    async def replaced(self: sessions.SessionReads, *place: object) -> object:
        looks.append(1)
        if len(looks) == 1:
            with server.client() as client:
                client.hset("tw:{47}:alice:s1", "replid", "another")
        return await look(self, *place)  # type: ignore[arg-type]

    monkeypatch.setattr(sessions.SessionReads, "_look", replaced)
    view = await log.read_view(SESSION, 1)

    assert len(looks) == 2
    assert view.gen == (await log.read_range(SESSION, 0, 1)).gen

    with server.client() as client:
        client.xdel("tw:{47}:alice:s1:log", "1-0")
    with pytest.raises(Failure) as failure:
        await log.read_view(SESSION, 1)
    assert failure.value.kind == "store_away"


async def test_a_read_whose_connection_is_cut_fails_and_the_next_one_works(log: RedisSessionLog) -> None:
    await log.accept_turn(request())
    await log.read_view(SESSION, 1)
    drop_replies(log._reads)

    with pytest.raises(Failure) as failure:
        await log.read_view(SESSION, 1)

    assert failure.value.kind == "store_away"
    assert (await log.read_view(SESSION, 1)).head == 1
