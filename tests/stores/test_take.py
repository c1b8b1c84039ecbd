"""take_turn, renew_leases, overdue_turns: who may write a turn."""

import pytest

from tests.stores.conftest import LIMITS
from tests.stores.making import (
    SESSION,
    append,
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
from turnwire.core.log_values import SessionKey
from turnwire.stores.redis.link import Link
from turnwire.stores.redis.log import LogLimits, RedisSessionLog


async def test_a_turn_with_a_lease_is_held_and_an_unknown_one_missing(log: RedisSessionLog) -> None:
    await log.accept_turn(request())

    assert (await log.take_turn(key(), "n2")).result == "held"
    assert (await log.take_turn(key(), "n2", "foreign")).result == "held"
    assert (await log.take_turn(key("t2"), "n2")).result == "missing"
    assert (await append(log, sealing())).result == "ok"
    assert (await log.take_turn(key(), "n2")).result == "over"


async def test_an_overdue_turn_is_taken_with_all_that_a_run_needs(
    log: RedisSessionLog, other: RedisSessionLog, server: StoreServer
) -> None:
    accepted = await log.accept_turn(request(cancel_after_ms=5_000))
    await append(log, batch(entries=text(key(), "a", "b")))
    await log.accept_turn(request(key("t2"), on_busy="queue"))
    await append(log, batch(entries=text(key(), "c"), counter=2))
    make_overdue(server, key())

    taken = await other.take_turn(key(), "n2")

    assert (taken.result, taken.state, taken.takes, taken.counter) == ("taken", "running", 1, 3)
    assert taken.gen == accepted.gen
    # As it was accepted, but for what a run does not need.
    assert taken.request == request(nonce="n2", cancel_after_ms=5_000, parent="root", taken_from="nonce-t1")
    assert (taken.accepted_seq, taken.accepted_at) == (1, accepted.logged[0].entry.at)  # type: ignore[union-attr]
    assert [entry.seq for entry in taken.entries] == [1, 2, 3, 5]
    assert {entry.entry.turn for entry in taken.entries} == {"t1"}
    assert (await append(log, batch(counter=3))).result == "fenced"
    assert (await append(other, batch(nonce="n2", counter=3))).result == "ok"


async def test_a_lease_that_ran_out_is_good_until_somebody_takes_it(log: RedisSessionLog, server: StoreServer) -> None:
    await log.accept_turn(request())
    make_overdue(server, key())

    assert (await append(log, batch())).result == "ok"
    assert await log.overdue_turns(5) == [key()]
    assert (await log.renew_leases([(key(), "nonce-t1")]))[0].result == "ok"
    assert await log.overdue_turns(5) == []
    assert (await log.take_turn(key(), "n2")).result == "held"


async def test_taking_again_with_the_same_nonce_is_the_same_take(log: RedisSessionLog, server: StoreServer) -> None:
    await log.accept_turn(request())
    make_overdue(server, key())

    first = await log.take_turn(key(), "n2")

    assert await log.take_turn(key(), "n2") == first
    make_overdue(server, key())
    assert (await log.take_turn(key(), "n3")).takes == 2


async def test_a_turn_whose_time_in_the_queue_ran_out_is_taken_as_queued_and_ended(
    log: RedisSessionLog, other: RedisSessionLog, server: StoreServer
) -> None:
    await log.accept_turn(request())
    for turn in ("t2", "t3"):
        await log.accept_turn(request(key(turn), on_busy="queue"))
    assert (await other.take_turn(key("t2"), "n2")).result == "held"
    make_overdue(server, key("t2"))

    assert (await other.take_turn(key("t2"), "n2")).state == "queued"
    # Whoever took it died: the next one must know, too, that it never was its turn.
    make_overdue(server, key("t2"))
    taken = await log.take_turn(key("t2"), "n4")
    assert (taken.state, taken.takes) == ("queued", 1)
    # While it is being ended it is nobody's next.
    assert (await append(log, sealing())).next == "t3"
    assert (await append(log, sealing(key("t2"), nonce="n4", state="error"))).next is None
    states = {turn.turn: turn.state for turn in (await log.read_view(SESSION, 9)).turns}
    assert states == {"t1": "done", "t2": "error", "t3": "running"}


async def test_the_longest_overdue_turns_come_first_and_ownerless_ones_before_them(
    log: RedisSessionLog, server: StoreServer
) -> None:
    late = SessionKey("bob", "s9").turn("late")
    await log.accept_turn(request(late))
    await log.accept_turn(request())
    await log.accept_turn(request(key("t2"), on_busy="queue"))
    await append(log, sealing())
    make_overdue(server, late)

    assert await log.overdue_turns(5) == [key("t2"), late]
    assert await log.overdue_turns(1) == [key("t2")]


async def test_renewal_answers_each_lease_for_itself(log: RedisSessionLog, server: StoreServer) -> None:
    gone = SessionKey("alice", "s2")
    await log.accept_turn(request(gone.turn("t1")))
    await log.delete_session(gone, "n")
    sealed = SessionKey("alice", "s3")
    await log.accept_turn(request(sealed.turn("t1")))
    await append(log, sealing(sealed.turn("t1")))
    await log.accept_turn(request())
    await log.cancel_turn(key(), "bob", "")

    answers = await log.renew_leases(
        [
            (key(), "nonce-t1"),
            (key(), "stranger"),
            (key("t9"), "n"),
            (gone.turn("t1"), "nonce-t1"),
            (sealed.turn("t1"), "nonce-t1"),
        ]
    )

    assert [answer.result for answer in answers] == ["ok", "fenced", "lost", "gone", "sealed"]
    assert answers[0].cancel_by == "bob"
    with server.client() as client:
        (index,) = client.keys("tw:{*}.leases")
        left_ms = client.zscore(index, "alice:s1:t1") - client.time()[0] * 1000  # type: ignore[operator, index] - a typed client would need a cast here
    assert LIMITS.lease_ms - 1_500 < left_ms <= LIMITS.lease_ms + 1_000


async def test_more_leases_than_fit_one_pipeline_are_renewed(log: RedisSessionLog) -> None:
    await log.accept_turn(request())

    answers = await log.renew_leases([(key(), "nonce-t1")] * 1_201)

    assert [answer.result for answer in answers] == ["ok"] * 1_201


async def test_how_long_nobody_watched_counts_from_the_last_look_or_the_accept(
    log: RedisSessionLog, server: StoreServer
) -> None:
    await log.accept_turn(request())

    async def unwatched_ms() -> int:
        return (await log.renew_leases([(key(), "nonce-t1")]))[0].unwatched_ms

    with server.client() as client:
        name = "tw:{47}:alice:s1"
        assert client.exists(name)
        accepted_at = int(client.hget(f"{name}:t:t1", "at"))  # type: ignore[arg-type]
        client.hset(f"{name}:t:t1", "at", accepted_at - 50_000)
        assert 50_000 <= await unwatched_ms() < 60_000
        await log.note_watched([SESSION])
        assert await unwatched_ms() < 10_000
        client.hset(name, "watched_at", accepted_at - 20_000)
        assert 20_000 <= await unwatched_ms() < 30_000


async def test_an_overdue_active_turn_is_seen_by_whoever_looks(log: RedisSessionLog, server: StoreServer) -> None:
    await log.accept_turn(request())
    assert (await log.read_range(SESSION, 0, 1)).overdue is None
    assert (await log.note_watched([SESSION]))[0].overdue is None

    make_overdue(server, key())

    assert (await log.read_range(SESSION, 0, 1)).overdue == "t1"
    assert (await log.note_watched([SESSION]))[0].overdue == "t1"


def expiries(server: StoreServer) -> dict[str, float]:
    """When alice's idle sessions are to go, by owner and session."""
    with server.client() as client:
        return {str(name): float(at) for name, at in client.zrange("tw:{47}.idle", 0, -1, withscores=True)}


async def test_sessions_that_were_idle_for_long_are_removed_unless_a_turn_runs(
    log: RedisSessionLog, server: StoreServer
) -> None:
    idle, busy, fresh = (SessionKey("alice", name) for name in ("idle", "busy", "fresh"))
    async with RedisSessionLog(Link(server.url), node="brief", limits=LogLimits(idle_ms=0)) as brief:
        for session in (idle, busy):
            await brief.accept_turn(request(session.turn("t1")))
        await append(brief, sealing(idle.turn("t1")))
        await log.accept_turn(request(fresh.turn("t1")))

        assert await brief.expire_sessions(10) == 1
        before = expiries(server)
        assert await log.expire_sessions(10) == 0
        put_off = expiries(server)
        assert put_off["alice:busy"] >= before["alice:busy"] + LIMITS.idle_ms

    assert [turn.state for turn in (await log.read_view(busy, 1)).turns] == ["running"]
    assert len(await entries_of(log, fresh)) == 1
    assert not [name for name in server.contents() if ":idle" in name]
    assert types((await log.accept_turn(request(idle.turn("t1")))).logged) == [("turn.accepted", "t1")]


async def test_a_session_that_is_written_to_while_it_is_found_idle_stays(
    log: RedisSessionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.accept_turn(request())
    await append(log, sealing())

    async def found(indexes: object, count_max: int) -> list[bytes]:
        return [b"alice:s1", b"alice:never"]

    monkeypatch.setattr(log, "_due", found)

    assert await log.expire_sessions(10) == 0
    assert (await log.read_view(SESSION, 1)).head == 3


async def test_the_sweep_removes_idle_sessions_now_and_then(log: RedisSessionLog, server: StoreServer) -> None:
    async with RedisSessionLog(Link(server.url), node="brief", limits=LogLimits(idle_ms=0)) as brief:
        await brief.accept_turn(request())
        await append(brief, sealing())
        assert await brief.overdue_turns(10) == []
        assert (await log.read_view(SESSION, 1)).gen is not None
        brief._expire_after_s = 0

        assert await brief.overdue_turns(10) == []

    assert (await log.read_view(SESSION, 1)).gen is None
