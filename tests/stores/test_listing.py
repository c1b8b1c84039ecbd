"""An owner's list of sessions, page by page, while others write."""

import asyncio
import secrets

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.stores.making import RECORD, append, request, sealing
from tests.stores.server import StoreServer
from turnwire.core.log_values import ListPlace, SessionChange, SessionKey
from turnwire.stores.redis.keys import session_name, sessions_name
from turnwire.stores.redis.link import Link
from turnwire.stores.redis.log import RedisSessionLog

IDS = [f"{first}{second}" for first in "aB_-7" for second in "zA0_-"]
"""Ids whose order by bytes is not that of any dictionary."""


async def pages_of(log: RedisSessionLog, owner: str, limit: int) -> list[list[str]]:
    pages: list[list[str]] = []
    place: ListPlace | None = None
    for _ in range(100):
        page = await log.list_sessions(owner, place, limit)
        pages.append([info.session for info in page.sessions])
        assert len(page.sessions) <= limit
        if page.next is None:
            return pages
        place = page.next
    raise AssertionError("the pages never end")


def at_once(server: StoreServer, owner: str, time: int, *sessions: str) -> None:
    """Say that the sessions were written to at the same time."""
    with server.client() as client:
        client.zadd(sessions_name(owner), dict.fromkeys(sessions, time))


async def test_an_owner_without_sessions_has_an_empty_list(log: RedisSessionLog, server: StoreServer) -> None:
    assert await pages_of(log, "alice", 5) == [[]]
    assert server.contents() == {}


async def test_the_newest_write_comes_first_and_each_owner_sees_their_own(
    log: RedisSessionLog, server: StoreServer
) -> None:
    for owner in ("alice", "bob"):
        for name in ("s1", "s2", "s3"):
            await log.accept_turn(request(SessionKey(owner, name).turn("t1"), preview=f"{owner} {name}"))
    at_once(server, "alice", 1, "s1", "s2", "s3")
    await log.update_session(SessionKey("alice", "s2"), SessionChange(title=b'"Sky"'))

    page = await log.list_sessions("alice", None, 5)

    assert [(info.session, info.title, info.preview) for info in page.sessions] == [
        ("s2", "Sky", "alice s2"),
        ("s3", None, "alice s3"),
        ("s1", None, "alice s1"),
    ]
    assert page.next is None


@pytest.mark.parametrize("limit", [1, 2, 7, 100])
async def test_sessions_of_one_moment_are_each_told_once(log: RedisSessionLog, server: StoreServer, limit: int) -> None:
    for name in IDS:
        await log.accept_turn(request(SessionKey("alice", name).turn("t1")))
    at_once(server, "alice", 7, *IDS)

    pages = await pages_of(log, "alice", limit)

    assert [name for page in pages for name in page] == sorted(IDS, key=str.encode, reverse=True)
    assert len(pages) == -(-len(IDS) // limit)


async def test_sessions_that_are_gone_leave_the_list(log: RedisSessionLog, server: StoreServer) -> None:
    names = [f"s{number:03}" for number in range(30)]
    for name in names:
        await log.accept_turn(request(SessionKey("alice", name).turn("t1")))
    with server.client() as client:
        for name in names[5:25]:
            client.delete(session_name(SessionKey("alice", name)))

    pages = await pages_of(log, "alice", 4)

    assert sorted(name for page in pages for name in page) == names[:5] + names[25:]
    with server.client() as client:
        assert client.zcard(sessions_name("alice")) == 10


async def test_a_list_of_nothing_but_gone_sessions_is_looked_through_bit_by_bit(
    log: RedisSessionLog, server: StoreServer
) -> None:
    await log.accept_turn(request(SessionKey("alice", "last").turn("t1")))
    with server.client() as client:
        client.zadd(sessions_name("alice"), {"last": 1} | {f"gone{number}": 2 for number in range(1_200)})

    first = await log.list_sessions("alice", None, 5)

    assert not first.sessions and first.next is not None
    pages = await pages_of(log, "alice", 5)
    assert [name for page in pages for name in page] == ["last"]
    with server.client() as client:
        assert client.zcard(sessions_name("alice")) == 1


async def test_a_clock_that_was_set_back_lets_no_session_sink(log: RedisSessionLog, server: StoreServer) -> None:
    """One that sank past somebody's place would be told twice."""
    turn = SessionKey("alice", "s1").turn("t1")
    await log.accept_turn(request(turn))
    ahead = 2**50
    at_once(server, "alice", ahead, "s1")
    await append(log, sealing(turn))
    with server.client() as client:
        assert client.zscore(sessions_name("alice"), "s1") == ahead
    assert (await log.read_view(turn.session_key, 1)).turns[0].parts == RECORD


Step = tuple[str, int]
_sessions = st.integers(0, 7)
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("page"), st.just(0)),
        st.tuples(st.just("touch"), _sessions),
        st.tuples(st.just("delete"), _sessions),
        st.tuples(st.just("expire"), _sessions),
        st.tuples(st.just("new"), st.just(0)),
    ),
    max_size=25,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(limit=st.integers(1, 4), times=st.lists(st.integers(1, 3), min_size=8, max_size=8), steps=_steps)
def test_whoever_pages_meets_each_untouched_session_once_and_none_twice(
    server: StoreServer, limit: int, times: list[int], steps: list[Step]
) -> None:
    asyncio.run(_page_amid(server, limit, times, steps))


async def _page_amid(server: StoreServer, limit: int, times: list[int], steps: list[Step]) -> None:
    owner = secrets.token_hex(8)
    names = [f"s{number}" for number in range(len(times))]
    async with RedisSessionLog(Link(server.url), node="here") as log:
        for name in names:
            await log.accept_turn(request(SessionKey(owner, name).turn("t1")))
        for name, time in zip(names, times, strict=True):
            at_once(server, owner, time, name)
        seen: list[str] = []
        written: set[str] = set()
        place: ListPlace | None = None
        over = False
        # Whatever happens in between, the reader goes on to the end.
        for kind, number in [*steps, *[("page", 0)] * (len(steps) + len(names) + 2)]:
            if kind == "new":
                await log.accept_turn(request(SessionKey(owner, secrets.token_hex(4)).turn("t1")))
            elif kind != "page":
                written.add(names[number])
                await _write(log, server, SessionKey(owner, names[number]), kind)
            elif not over:
                page = await log.list_sessions(owner, place, limit)
                seen += [info.session for info in page.sessions]
                place, over = page.next, page.next is None
        assert over, "the pages never end"
        assert len(seen) == len(set(seen))
        assert set(names) - written <= set(seen)
        untouched = [name for name in seen if name in set(names) - written]
        order = sorted(untouched, key=lambda name: (times[names.index(name)], name), reverse=True)
        assert untouched == order


async def _write(log: RedisSessionLog, server: StoreServer, session: SessionKey, kind: str) -> None:
    if kind == "touch":
        await log.update_session(session, SessionChange(title=b'"%s"' % secrets.token_hex(4).encode()))
    elif kind == "delete":
        await log.delete_session(session, "n")
    else:
        with server.client() as client:
            client.delete(session_name(session))
