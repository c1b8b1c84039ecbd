"""Sessions at rest: what they are called, how they are changed and deleted, and their turns page by page."""

import orjson
import pytest

from tests.stores.making import (
    RECORD,
    SESSION,
    append,
    asking,
    batch,
    entries_of,
    key,
    make_overdue,
    request,
    sealing,
    text,
    types,
)
from tests.stores.server import StoreServer
from tests.stores.test_nudges import next_of
from turnwire.core.entries import Event
from turnwire.core.log_values import Nudge, SessionChange, SessionInfo, SessionKey
from turnwire.ports import Failure
from turnwire.stores.redis.link import Link
from turnwire.stores.redis.log import LogLimits, RedisSessionLog

NEVER = SessionKey("alice", "never")
BOBS = SessionKey("bob", SESSION.session)


def titled(title: str | None, metadata: bytes | None = None) -> SessionChange:
    return SessionChange(orjson.dumps(title), metadata)


# --- one session ------------------------------------------------------------------------------------------------------


async def test_a_session_is_told_with_the_times_and_the_preview_of_its_first_text(log: RedisSessionLog) -> None:
    assert await log.read_session(SESSION) is None
    await log.accept_turn(request(preview=""))
    first = await log.read_session(SESSION)
    assert first is not None
    assert first == SessionInfo("s1", None, None, b"{}", first.created_at, first.created_at)
    await append(log, sealing())
    await log.accept_turn(request(key("t2"), preview="Why “is” the sky ☁"))
    await append(log, sealing(key("t2")))
    await log.accept_turn(request(key("t3"), preview="another"))

    last = await log.read_session(SESSION)

    assert last is not None and last.preview == "Why “is” the sky ☁"
    assert last.created_at == first.created_at <= last.updated_at


async def test_a_turn_that_is_refused_leaves_no_preview(log: RedisSessionLog) -> None:
    await log.accept_turn(request(preview=""))
    assert (await log.accept_turn(request(key("t2"), preview="busy"))).result == "busy"
    info = await log.read_session(SESSION)
    assert info is not None and info.preview is None


# --- changing ---------------------------------------------------------------------------------------------------------


async def test_a_change_is_logged_with_both_fields_whole_and_belongs_to_no_turn(log: RedisSessionLog) -> None:
    gen = (await log.accept_turn(request())).gen

    first = await log.update_session(SESSION, titled('a "b" é\n', b'{"x":[1,null]}'))
    second = await log.update_session(SESSION, SessionChange(metadata=b"{}"))
    third = await log.update_session(SESSION, titled(None))

    assert first is not None and second is not None and third is not None
    assert (first.gen, first.info.title, first.info.metadata) == (gen, 'a "b" é\n', b'{"x":[1,null]}')
    assert (second.info.title, second.info.metadata) == ('a "b" é\n', b"{}")
    assert third.info.title is None and third.info == await log.read_session(SESSION)
    logged = (await entries_of(log))[1:]
    assert [*first.logged, *second.logged, *third.logged] == logged
    assert [entry.seq for entry in logged] == [2, 3, 4]
    told = [entry.entry for entry in logged]
    assert types(logged) == [("session.updated", None)] * 3
    assert [orjson.loads(event.body) for event in told if isinstance(event, Event)] == [
        {"title": 'a "b" é\n', "metadata": {"x": [1, None]}},
        {"title": 'a "b" é\n', "metadata": {}},
        {"title": None, "metadata": {}},
    ]
    place = await log.read_range(SESSION, 3, 5)
    assert (place.at_known, place.turn_at) == (True, None)
    assert (await log.read_view(SESSION, 5)).turn_at_head is None


@pytest.mark.parametrize("change", [SessionChange(), titled("one"), titled("one", b'{"a":1}')])
async def test_what_changes_nothing_writes_nothing(
    log: RedisSessionLog, server: StoreServer, change: SessionChange
) -> None:
    await log.accept_turn(request())
    await log.update_session(SESSION, titled("one", b'{"a":1}'))
    before = server.contents()

    again = await log.update_session(SESSION, change)

    assert again is not None and not again.logged and again.info.title == "one"
    assert server.contents() == before


async def test_no_session_is_made_or_changed_for_somebody_who_has_none(
    log: RedisSessionLog, server: StoreServer
) -> None:
    await log.accept_turn(request())
    before = server.contents()
    for session in (NEVER, BOBS):
        assert await log.update_session(session, titled("mine")) is None
        assert await log.read_session(session) is None
        assert await log.read_turns(session, None, 5) is None
        assert await log.delete_session(session, "n") is None
    assert not (await log.list_sessions("bob", None, 5)).sessions
    assert server.contents() == before


async def test_a_change_stands_between_the_pieces_of_a_turn_and_is_none_of_them(log: RedisSessionLog) -> None:
    await log.accept_turn(request())
    await append(log, batch(entries=text(key(), "a")))
    await log.update_session(SESSION, titled("T"))
    await append(log, batch(entries=text(key(), "b"), counter=1))

    assert [kind for kind, _ in types(await entries_of(log))] == [
        "turn.accepted",
        "turn.delta",
        "session.updated",
        "turn.delta",
    ]
    (turn,) = (await log.read_view(SESSION, 5)).turns
    assert [entry.seq for entry in turn.entries] == [1, 2, 4]


async def test_changes_make_no_log_longer_than_it_may_be(log: RedisSessionLog) -> None:
    await log.accept_turn(request())
    await append(log, sealing())
    for number in range(100):
        await log.update_session(SESSION, titled(f"{number}"))

    place = await log.read_range(SESSION, 0, 1_000)

    assert place.head == 103 and not place.entries
    assert 0 < place.floor <= 103 - 9
    assert len((await log.read_range(SESSION, place.floor, 1_000)).entries) <= 31
    assert (await log.read_view(SESSION, 5)).turns[0].parts == RECORD


async def test_a_change_is_told_to_nodes_that_write_the_session_too(
    log: RedisSessionLog, other: RedisSessionLog
) -> None:
    gen = (await other.accept_turn(request())).gen
    await log.watch(SESSION)
    await other.update_session(SESSION, titled("T"))
    assert await next_of(log) == Nudge("grown", SESSION, gen, 2, aside=True)


# --- deleting ---------------------------------------------------------------------------------------------------------


async def test_a_deletion_tells_its_place_its_time_and_the_active_turn(
    log: RedisSessionLog, other: RedisSessionLog
) -> None:
    gen = (await other.accept_turn(request())).gen
    await append(other, batch())
    await log.watch(SESSION)

    deleted = await other.delete_session(SESSION, "n1")

    assert deleted is not None
    assert (deleted.gen, deleted.seq, deleted.active) == (gen, 3, "t1")
    assert await next_of(log) == Nudge("deleted", SESSION, gen, 3, at=deleted.at)
    assert await other.delete_session(SESSION, "n1") == deleted
    assert await other.delete_session(SESSION, "n2") is None
    assert await log.read_session(SESSION) is None
    assert not (await log.list_sessions("alice", None, 5)).sessions


async def test_a_deletion_ends_parked_and_queued_turns_and_leaves_another_owners_alone(
    log: RedisSessionLog, server: StoreServer
) -> None:
    await log.accept_turn(request(BOBS.turn("t1")))
    bobs = server.contents()
    await log.accept_turn(request())
    await append(log, asking(key(), "r1"))
    await log.accept_turn(request(key("t2"), on_busy="queue"))
    make_overdue(server, key())
    make_overdue(server, key("t2"))

    deleted = await log.delete_session(SESSION, "n1")

    assert deleted is not None and deleted.active == "t1"
    left = server.contents()
    assert left.pop("tw:{47}:alice:s1:deleted")
    assert left == bobs
    assert await log.overdue_turns(5) == []


async def test_a_name_is_free_again_when_its_deletion_is_forgotten(server: StoreServer) -> None:
    async with RedisSessionLog(Link(server.url), node="here", limits=LogLimits(deleted_ms=1)) as log:
        gen = (await log.accept_turn(request())).gen
        await log.delete_session(SESSION, "n1")
        while (again := await log.accept_turn(request())).result == "deleted":
            pass
        assert (again.result, again.seq) == ("running", 1)
        assert again.gen != gen


# --- turns ------------------------------------------------------------------------------------------------------------


async def test_turns_come_oldest_first_and_each_page_before_the_last(log: RedisSessionLog) -> None:
    for number in range(1, 6):
        turn = key(f"t{number}")
        await log.accept_turn(request(turn))
        await append(log, sealing(turn))
    await log.accept_turn(request(key("t6")))
    await append(log, batch(key("t6"), entries=text(key("t6"), "half")))
    await log.accept_turn(request(key("t7"), on_busy="queue"))

    pages: list[list[str]] = []
    before = None
    for _ in range(5):
        page = await log.read_turns(SESSION, before, 3)
        assert page is not None
        pages.append([turn.turn for turn in page.turns])
        for turn in page.turns:
            assert turn.parts == (None if turn.turn in ("t6", "t7") else RECORD)
            assert [entry.entry.turn for entry in turn.entries] == {"t6": ["t6"] * 2, "t7": ["t7"]}.get(turn.turn, [])
        if page.next is None:
            break
        before = page.next

    assert pages == [["t5", "t6", "t7"], ["t2", "t3", "t4"], ["t1"]]
    assert await log.read_turns(SESSION, "t_never", 3) is None
    first = await log.read_turns(SESSION, "t1", 3)
    assert first is not None and (list(first.turns), first.next) == ([], None)
    exact = await log.read_turns(SESSION, "t4", 3)
    assert exact is not None and exact.next is None


async def test_a_page_of_turns_stops_before_it_gets_too_large_and_leads_on(server: StoreServer) -> None:
    limits = LogLimits(read_bytes_max=1_000)
    async with RedisSessionLog(Link(server.url), node="here", limits=limits) as log:
        for number, size in enumerate((100, 5_000, 300, 300, 300), 1):
            turn = key(f"t{number}")
            await log.accept_turn(request(turn, spec=b'{"input":[],"model":"' + b"m" * size + b'"}'))
            await append(log, sealing(turn))
        pages: list[list[str]] = []
        before = None
        for _ in range(9):
            page = await log.read_turns(SESSION, before, 50)
            assert page is not None
            pages.append([turn.turn for turn in page.turns])
            before = page.next
            if before is None:
                break
    assert pages == [["t4", "t5"], ["t3"], ["t2"], ["t1"]]


# --- a store in trouble -----------------------------------------------------------------------------------------------


async def test_a_full_store_reads_and_deletes_and_refuses_changes(log: RedisSessionLog, server: StoreServer) -> None:
    await log.accept_turn(request(preview="hi"))
    await log.accept_turn(request(key("t2"), on_busy="queue"))
    with server.client() as client:
        client.config_set("maxmemory", "1")

    with pytest.raises(Failure) as failure:
        await log.update_session(SESSION, titled("T"))

    assert failure.value.kind == "store_full"
    info = await log.read_session(SESSION)
    assert info is not None and (info.title, info.preview) == (None, "hi")
    assert [found.session for found in (await log.list_sessions("alice", None, 5)).sessions] == ["s1"]
    page = await log.read_turns(SESSION, None, 5)
    assert page is not None and len(page.turns) == 2
    assert await log.delete_session(SESSION, "n1") is not None


@pytest.mark.parametrize("call", ["list", "read", "update", "turns"])
async def test_a_store_that_forgot_its_scripts_is_given_them_again(
    log: RedisSessionLog, server: StoreServer, call: str
) -> None:
    await log.accept_turn(request())
    with server.client() as client:
        client.script_flush()
    match call:
        case "list":
            assert len((await log.list_sessions("alice", None, 5)).sessions) == 1
        case "read":
            assert await log.read_session(SESSION) is not None
        case "update":
            assert await log.update_session(SESSION, titled("T")) is not None
        case _:
            assert await log.read_turns(SESSION, None, 5) is not None
