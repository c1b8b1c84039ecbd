"""accept_turn: states, parents, queues, interrupts, cancels that came first, trimming."""

import pytest

from tests.stores.conftest import LIMITS
from tests.stores.making import SESSION, append, batch, entries_of, key, make_overdue, request, sealing, text, types
from tests.stores.server import StoreServer
from turnwire.core.entries import Event
from turnwire.core.log_values import SessionKey
from turnwire.stores.redis.log import RedisSessionLog


async def test_a_first_turn_makes_its_session(log: RedisSessionLog) -> None:
    accepted = await log.accept_turn(request())

    assert (accepted.result, accepted.seq, accepted.parent) == ("running", 1, None)
    assert len(accepted.gen) == 22
    (logged,) = accepted.logged
    assert isinstance(logged.entry, Event)
    assert logged.entry.fields == {"parent": "", "state": "running"}
    assert logged.entry.body == request().body
    assert accepted.logged == await entries_of(log)


async def test_an_owners_sessions_are_kept_by_their_last_write(log: RedisSessionLog, server: StoreServer) -> None:
    """Nothing lists them yet but these tests: the store keeps what a list needs from the first turn on."""
    for session in ("s1", "s2"):
        await log.accept_turn(request(SessionKey("alice", session).turn("t1")))
    sealed = await append(log, sealing())

    found = server.contents()

    (listed,) = (value for name, value in found.items() if name.endswith(":sessions"))
    assert dict(listed) == {  # type: ignore[call-overload]
        session: float(found[f"tw:{{47}}:alice:{session}"]["updated_at"])  # type: ignore[index] - a typed client would need a cast here
        for session in ("s1", "s2")
    }
    assert dict(listed)["s1"] == sealed.at  # type: ignore[call-overload]


async def test_the_same_nonce_gets_the_same_answer_and_another_a_duplicate(log: RedisSessionLog) -> None:
    first = await log.accept_turn(request())
    queued = await log.accept_turn(request(key("t2"), on_busy="queue"))

    assert await log.accept_turn(request()) == first
    assert await log.accept_turn(request(key("t2"), on_busy="queue")) == queued
    again = await log.accept_turn(request(nonce="another"))
    assert (again.result, again.seq, again.logged) == ("duplicate", 1, [])
    assert (await log.accept_turn(request(nonce="another", digest="else"))).result == "conflict"
    assert len(await entries_of(log)) == 2


async def test_a_turn_is_a_duplicate_after_its_end_too(log: RedisSessionLog) -> None:
    await log.accept_turn(request())
    await append(log, sealing())

    assert (await log.accept_turn(request(nonce="another"))).result == "duplicate"


async def test_parents_are_the_leaf_none_or_one_that_exists(log: RedisSessionLog) -> None:
    for turn, parent, expected in (
        ("t1", "leaf", None),
        ("t2", "leaf", "t1"),
        ("t3", ("t1",), "t1"),
        ("t4", "root", None),
        ("t5", "leaf", "t4"),
    ):
        accepted = await log.accept_turn(request(key(turn), parent=parent))
        assert (accepted.result, accepted.parent) == ("running", expected)
        await append(log, sealing(key(turn)))

    refused = await log.accept_turn(request(key("t6"), parent=("nobody",)))
    assert refused.result == "no_parent"
    elsewhere = SessionKey("alice", "s2").turn("t1")
    assert (await log.accept_turn(request(elsewhere, parent=("t1",)))).result == "no_parent"


async def test_a_busy_session_rejects_or_queues_up_to_its_bound(log: RedisSessionLog, server: StoreServer) -> None:
    await log.accept_turn(request())
    before = server.contents()
    assert (await log.accept_turn(request(key("t2")))).result == "busy"
    assert server.contents() == before

    for number in range(LIMITS.queue_turns_max):
        accepted = await log.accept_turn(request(key(f"q{number}"), on_busy="queue"))
        assert accepted.result == "queued"
        assert accepted.logged[0].entry.fields["state"] == "queued"  # type: ignore[union-attr]
    before = server.contents()
    assert (await log.accept_turn(request(key("q9"), on_busy="queue"))).result == "queue_full"
    assert server.contents() == before


@pytest.mark.parametrize("on_busy", ["reject", "queue", "interrupt"])
async def test_on_busy_means_nothing_in_a_quiet_session(log: RedisSessionLog, on_busy: str) -> None:
    accepted = await log.accept_turn(request(on_busy=on_busy))

    assert (accepted.result, accepted.interrupted, accepted.next) == ("running", None, None)


async def test_interrupt_ends_the_queue_asks_the_active_turn_and_waits(log: RedisSessionLog) -> None:
    await log.accept_turn(request())
    for turn in ("t2", "t3"):
        await log.accept_turn(request(key(turn), on_busy="queue"))

    accepted = await log.accept_turn(request(key("t4"), on_busy="interrupt"))

    assert (accepted.result, accepted.interrupted, accepted.next) == ("queued", "t1", None)
    assert types(accepted.logged) == [
        ("turn.done", "t2"),
        ("turn.done", "t3"),
        ("turn.cancelling", "t1"),
        ("turn.accepted", "t4"),
    ]
    assert accepted.logged[0].entry.body == request().cancelled_body  # type: ignore[union-attr]
    assert accepted.logged[2].entry.body == b'{"by":"alice"}'  # type: ignore[union-attr]
    assert await log.accept_turn(request(key("t4"), on_busy="interrupt")) == accepted
    sealed = await append(log, sealing())
    assert (sealed.cancel_by, sealed.next) == ("alice", "t4")


async def test_a_second_interrupt_asks_the_active_turn_no_second_time(log: RedisSessionLog) -> None:
    await log.accept_turn(request())
    await log.accept_turn(request(key("t2"), on_busy="interrupt"))

    accepted = await log.accept_turn(request(key("t3"), on_busy="interrupt"))

    assert types(accepted.logged) == [("turn.done", "t2"), ("turn.accepted", "t3")]


async def test_interrupting_a_turn_that_nobody_runs_names_it_to_be_taken(log: RedisSessionLog) -> None:
    await log.accept_turn(request())
    await log.accept_turn(request(key("t2"), on_busy="queue"))
    assert (await append(log, sealing())).next == "t2"

    accepted = await log.accept_turn(request(key("t3"), on_busy="interrupt"))

    assert (accepted.interrupted, accepted.next) == ("t2", "t2")
    assert (await log.take_turn(key("t2"), "n")).cancel_by == "alice"


@pytest.mark.parametrize("busy", [True, False])
async def test_a_turn_whose_cancel_came_first_is_accepted_and_over_at_once(log: RedisSessionLog, busy: bool) -> None:
    if busy:
        await log.accept_turn(request(key("t0")))
    assert (await log.cancel_turn(key(), "alice", "")).result == "pending"

    accepted = await log.accept_turn(request())

    assert accepted.result == "sealed"
    assert types(accepted.logged) == [("turn.accepted", "t1"), ("turn.done", "t1")]
    assert await log.accept_turn(request()) == accepted
    assert (await log.accept_turn(request(nonce="another"))).result == "duplicate"
    assert (await append(log, batch())).result == "fenced"
    view = await log.read_view(SESSION, 5)
    assert [turn.state for turn in view.turns] == (["running", "done"] if busy else ["done"])
    assert (await log.accept_turn(request(key("t2")))).result == ("busy" if busy else "running")


async def test_nothing_is_made_in_a_deleted_session(log: RedisSessionLog, server: StoreServer) -> None:
    await log.accept_turn(request())
    await log.accept_turn(request(key("t2"), on_busy="queue"))

    assert await log.delete_session(SESSION, "n")
    left = server.contents()
    assert await log.delete_session(SESSION, "m") is None
    assert (await log.accept_turn(request())).result == "deleted"
    assert (await log.accept_turn(request(key("t9")))).result == "deleted"
    assert (await log.renew_leases([(key(), "nonce-t1")]))[0].result == "gone"
    assert (await log.take_turn(key(), "n")).result == "missing"
    assert (await log.cancel_turn(key(), "alice", "")).result == "already_done"
    assert (await log.respond_turn(key(), "r", "alice", b"1")).result == "not_found"
    assert server.contents() == left
    assert list(left) == ["tw:{47}:alice:s1:deleted"]


async def test_a_long_log_is_cut_when_a_turn_begins_in_a_quiet_session(log: RedisSessionLog) -> None:
    await log.accept_turn(request())
    await append(log, batch(entries=text(key(), *"a" * 40)))
    await log.accept_turn(request(key("t2"), on_busy="queue"))
    assert (await log.read_view(SESSION, 5)).floor == 0
    await append(log, sealing(counter=40))
    await log.take_turn(key("t2"), "n2")
    await append(log, sealing(key("t2"), nonce="n2"))
    head = (await log.read_view(SESSION, 5)).head

    await log.accept_turn(request(key("t3")))

    view = await log.read_view(SESSION, 5)
    assert view.floor == head - LIMITS.log_entries_keep + 1
    assert (view.head, view.turn_at_head) == (head + 1, "t3")
    assert [(turn.turn, turn.state) for turn in view.turns] == [("t1", "done"), ("t2", "done"), ("t3", "running")]
    assert view.turns[0].accepted.seq == 1
    assert view.turns[0].accepted.entry.body == request().body  # type: ignore[union-attr]
    place = await log.read_range(SESSION, view.floor, 100)
    assert place.at_known
    assert [entry.seq for entry in place.entries] == list(range(view.floor + 1, head + 2))
    lost = await log.read_range(SESSION, view.floor - 2, 100)
    assert (lost.at_known, lost.entries) == (False, [])


async def test_a_log_is_not_cut_before_it_is_long(log: RedisSessionLog) -> None:
    await log.accept_turn(request())
    entries = LIMITS.log_entries_max - 3  # with turn.accepted and the terminal's batch exactly the most
    await append(log, sealing(entries=[*text(key(), *"a" * entries), Event("turn.done", "t1", b"{}")]))
    assert (await log.read_view(SESSION, 5)).head < LIMITS.log_entries_max

    await log.accept_turn(request(key("t2")))

    assert (await log.read_view(SESSION, 5)).floor == 0


async def test_a_log_is_not_cut_while_a_turn_that_waited_too_long_is_being_ended(
    log: RedisSessionLog, other: RedisSessionLog, server: StoreServer
) -> None:
    """Nothing is active then, and whoever took it still has to find its entries."""
    await log.accept_turn(request())
    await log.accept_turn(request(key("t2"), on_busy="queue"))
    await append(log, batch(entries=text(key(), *"a" * 40)))
    make_overdue(server, key("t2"))
    assert (await other.take_turn(key("t2"), "n2")).state == "queued"
    assert (await append(log, sealing(counter=40))).next is None

    assert (await log.accept_turn(request(key("t3")))).result == "running"

    assert (await log.read_view(SESSION, 5)).floor == 0


async def test_interrupt_leaves_a_turn_that_is_being_ended_to_whoever_ends_it(
    log: RedisSessionLog, other: RedisSessionLog, server: StoreServer
) -> None:
    await log.accept_turn(request())
    await log.accept_turn(request(key("t2"), on_busy="queue"))
    make_overdue(server, key("t2"))
    assert (await other.take_turn(key("t2"), "n2")).state == "queued"

    accepted = await log.accept_turn(request(key("t3"), on_busy="interrupt"))

    assert types(accepted.logged) == [("turn.cancelling", "t1"), ("turn.accepted", "t3")]
    assert (await append(other, sealing(key("t2"), nonce="n2", state="error"))).result == "ok"


# --- put back by a writer whose store has lost it --------------------------------------------------------------------


async def test_a_turn_that_nobody_has_is_given_back_to_the_writer_that_says_it_had_it(log: RedisSessionLog) -> None:
    await log.accept_turn(request())
    await log.accept_turn(request(key("t2"), on_busy="queue"))
    back = request(key("t2"), "n2", on_busy="reject", put_back=True)
    assert (await log.accept_turn(back)).result == "busy"  # the one before it has not ended (again) yet
    await append(log, sealing())
    assert (await append(log, batch(key("t2"), nonce="n2"))).result == "lost"

    accepted = await log.accept_turn(back)

    assert (accepted.result, accepted.seq, accepted.logged) == ("running", 2, [])
    assert (await log.accept_turn(back)).result == "running"  # as after a lost reply
    assert (await log.take_turn(key("t2"), "n3")).result == "held"
    assert (await append(log, batch(key("t2"), nonce="n2"))).result == "ok"


async def test_a_turn_that_another_writer_has_is_not_given_back(log: RedisSessionLog) -> None:
    await log.accept_turn(request())

    assert (await log.accept_turn(request(nonce="n2", put_back=True))).result == "duplicate"

    assert (await append(log, batch(nonce="n2"))).result == "fenced"
    assert (await append(log, batch())).result == "ok"


async def test_a_turn_whose_parent_was_lost_too_hangs_on_what_is_left(log: RedisSessionLog) -> None:
    alone = await log.accept_turn(request(parent=("t0",), put_back=True))
    assert (alone.result, alone.parent) == ("running", None)
    await append(log, sealing())
    after = await log.accept_turn(request(key("t2"), parent=("t0",), put_back=True))
    assert (after.result, after.parent) == ("running", "t1")
    await append(log, sealing(key("t2")))
    kept = await log.accept_turn(request(key("t3"), parent=("t1",), put_back=True))
    assert (kept.result, kept.parent) == ("running", "t1")


async def test_a_turn_that_is_put_back_comes_behind_the_one_that_it_came_behind_before(
    log: RedisSessionLog, server: StoreServer
) -> None:
    assert (await log.accept_turn(request())).predecessor is None
    queued = request(key("t2"), parent="root", on_busy="queue")
    assert (await log.accept_turn(queued)).predecessor == "t1"
    await log.accept_turn(request(key("t3"), on_busy="queue"))
    assert (await log.accept_turn(queued)).predecessor == "t1"  # as after a lost reply
    assert (await append(log, sealing())).next == "t2"
    taken = (await log.take_turn(key("t2"), "n2")).request
    assert taken is not None and taken.predecessor == "t1"
    await append(log, sealing(key("t2"), nonce="n2"))
    assert (await log.take_turn(key("t3"), "n3")).result == "taken"
    await append(log, sealing(key("t3"), nonce="n3"))

    before = server.contents()
    early = await log.accept_turn(request(key("t5"), parent=("t3",), put_back=True, predecessor="t4"))
    assert early.result == "too_early"
    assert server.contents() == before

    await log.accept_turn(request(key("t4"), put_back=True, predecessor="t3"))
    await append(log, sealing(key("t4")))
    assert (await log.accept_turn(request(key("t5"), put_back=True, predecessor="t4"))).result == "running"


async def test_a_cancel_that_came_first_waits_for_the_writer_of_a_turn_that_is_put_back(log: RedisSessionLog) -> None:
    await log.cancel_turn(key(), "bob", "")

    accepted = await log.accept_turn(request(put_back=True))

    assert accepted.result == "running"
    assert types(accepted.logged) == [("turn.accepted", "t1"), ("turn.cancelling", "t1")]
    assert (await append(log, batch())).cancel_by == "alice"
    assert (await append(log, sealing(counter=1))).result == "ok"
    # The cancel is used up: it does not hit the next of that name.
    await log.delete_session(SESSION, "n")
    elsewhere = SessionKey("alice", "s2")
    assert (await log.accept_turn(request(elsewhere.turn("t1")))).result == "running"


async def test_a_put_back_turn_is_refused_like_any_other_where_it_must_be(log: RedisSessionLog) -> None:
    await log.accept_turn(request())
    assert (await log.accept_turn(request(key("t2"), put_back=True, on_busy="reject"))).result == "busy"
    await log.delete_session(SESSION, "n")
    assert (await log.accept_turn(request(key("t2"), put_back=True))).result == "deleted"


async def test_an_interrupt_is_not_held_up_by_the_full_queue_that_it_clears(log: RedisSessionLog) -> None:
    await log.accept_turn(request())
    for number in range(LIMITS.queue_turns_max):
        assert (await log.accept_turn(request(key(f"q{number}"), on_busy="queue"))).result == "queued"
    assert (await log.accept_turn(request(key("late"), on_busy="queue"))).result == "queue_full"

    assert (await log.accept_turn(request(key("now"), on_busy="interrupt"))).result == "queued"

    assert [turn.turn for turn in (await log.read_view(SESSION, 9)).turns if turn.state == "queued"] == ["now"]


async def test_an_interrupt_of_nothing_is_a_turn_like_any_other(log: RedisSessionLog) -> None:
    accepted = await log.accept_turn(request(on_busy="interrupt"))
    assert (accepted.result, accepted.interrupted, types(accepted.logged)) == (
        "running",
        None,
        [("turn.accepted", "t1")],
    )


async def test_a_turn_that_was_cancelled_before_it_came_interrupts_nothing(log: RedisSessionLog) -> None:
    await log.accept_turn(request())
    await log.accept_turn(request(key("t2"), on_busy="queue"))
    await log.cancel_turn(key("t3"), "bob", "")

    accepted = await log.accept_turn(request(key("t3"), on_busy="interrupt"))

    assert (accepted.result, accepted.interrupted) == ("sealed", None)
    assert types(accepted.logged) == [("turn.accepted", "t3"), ("turn.done", "t3")]
