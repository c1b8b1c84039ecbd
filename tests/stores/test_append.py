"""append_frames and seal_turn: what is checked, and in which order."""

from typing import Literal

import pytest

from tests.stores.making import (
    RECORD,
    SESSION,
    append,
    asking,
    batch,
    drop_replies,
    entries_of,
    key,
    make_overdue,
    request,
    sealing,
    text,
    types,
)
from tests.stores.server import StoreServer
from turnwire.core.entries import Delta, Event
from turnwire.core.log_values import SessionKey
from turnwire.stores.redis.log import RedisSessionLog


async def test_entries_come_back_as_they_were_given(log: RedisSessionLog) -> None:
    await log.accept_turn(request())
    given = [
        Event("turn.started", "t1", b'{"step":1}'),
        Delta("t1", 0, "text", "h\u00e9\U0001f600\r\n\x00"),
        Delta("t1", 1, "tool_call", "", call="c 1", name="find"),
        Delta("t1", 1, "tool_call", "{}", last=True, opaque='["m",{"signature":"\u00e9"}]'),
        Event("turn.asked", "t1", b"{}", {"request": "part-1"}),
    ]

    answer = await append(log, batch(entries=given))

    logged = (await entries_of(log))[1:]
    assert (answer.result, answer.first_seq, answer.counter) == ("ok", 2, 5)
    assert [entry.seq for entry in logged] == [2, 3, 4, 5, 6]
    for entry in given:
        if isinstance(entry, Event):
            entry.at = answer.at
    assert [entry.entry for entry in logged] == given
    assert answer.at > 1_700_000_000_000


async def test_every_batch_of_a_pipeline_is_answered_in_its_place(log: RedisSessionLog) -> None:
    sessions = [SessionKey("alice", f"s{number}") for number in range(60)]
    for session in sessions[::2]:
        await log.accept_turn(request(session.turn("t1")))

    answers = await append(log, *(batch(session.turn("t1")) for session in sessions))

    assert [answer.result for answer in answers] == ["ok", "lost"] * 30
    assert await append(log, batch(sessions[0].turn("t1"), counter=1)) is not None
    assert await log.append_many([]) == []


@pytest.mark.parametrize("deleted", [True, False])
async def test_an_unknown_turn_is_gone_when_its_session_was_deleted_and_lost_otherwise(
    log: RedisSessionLog, deleted: bool
) -> None:
    await log.accept_turn(request())
    if deleted:
        assert await log.delete_session(SESSION, "n")

    answer = await append(log, batch(key() if deleted else key("t2")))

    assert answer.result == ("gone" if deleted else "lost")


ORDER = {
    "fenced before dup": ("fenced", {"taken", "repeated"}),
    "fenced before sealed": ("fenced", {"taken", "sealed"}),
    "fenced before regressed": ("fenced", {"taken", "wrong counter"}),
    "dup before sealed": ("dup", {"sealed", "repeated"}),
    "dup before regressed": ("dup", {"repeated", "wrong counter"}),
    "sealed before regressed": ("sealed", {"sealed", "wrong counter"}),
    "regressed": ("regressed", {"wrong counter"}),
    "ok": ("ok", set[str]()),
}


@pytest.mark.parametrize(("expected", "faults"), ORDER.values(), ids=ORDER)
async def test_what_is_wrong_with_an_append_is_told_in_one_order(
    log: RedisSessionLog, other: RedisSessionLog, server: StoreServer, expected: str, faults: set[str]
) -> None:
    await log.accept_turn(request())
    first = sealing(name="first") if "sealed" in faults else batch(name="first", entries=text(key(), "a", "b"))
    assert (await append(log, first)).result == "ok"
    if "taken" in faults and "sealed" not in faults:
        make_overdue(server, key())
        assert (await other.take_turn(key(), "another")).result == "taken"
    before = await entries_of(log)

    again = batch(
        name="first" if "repeated" in faults else "second",
        counter=7 if "wrong counter" in faults else 2,
        nonce="stranger" if faults == {"taken", "sealed"} else None,
    )
    answer = await append(log, again)

    assert answer.result == expected
    if expected == "dup":
        assert (answer.first_seq, answer.counter) == (2, 2)
    if expected == "regressed":
        assert answer.counter == 2
    if expected != "ok":
        assert await entries_of(log) == before


async def test_a_repeated_batch_tells_the_place_and_time_of_the_first(log: RedisSessionLog) -> None:
    await log.accept_turn(request())
    sent = batch(entries=[Event("turn.started", "t1", b"{}")])

    first = await append(log, sent)
    again = await append(log, sent)

    assert again.result == "dup"
    assert (again.first_seq, again.at, again.gen) == (first.first_seq, first.at, first.gen)
    assert types(await entries_of(log)) == [("turn.accepted", "t1"), ("turn.started", "t1")]


@pytest.mark.parametrize("state", ["done", "error"])
async def test_nothing_follows_a_terminal(log: RedisSessionLog, state: Literal["done", "error"]) -> None:
    await log.accept_turn(request())
    assert (await append(log, sealing(state=state))).result == "ok"
    before = types(await entries_of(log))

    assert (await append(log, batch(counter=2))).result == "sealed"
    assert (await append(log, sealing(counter=2))).result == "sealed"
    assert (await log.renew_leases([(key(), "nonce-t1")]))[0].result == "sealed"
    assert (await log.take_turn(key(), "n2", "foreign")).result == "over"
    assert (await log.cancel_turn(key(), "bob", "")).result == "already_done"
    assert types(await entries_of(log)) == before


async def test_a_seal_whose_reply_was_lost_still_names_the_next_turn(log: RedisSessionLog) -> None:
    await log.accept_turn(request())
    await log.accept_turn(request(key("t2"), on_busy="queue"))
    seal = sealing()
    await append(log, batch(entries=[]))
    drop_replies(log._appends.lanes[0])

    assert (await append(log, seal)).result == "away"
    answer = await append(log, seal)

    assert (answer.result, answer.next) == ("dup", "t2")


async def test_a_seal_promotes_the_head_of_the_queue_without_an_owner(
    log: RedisSessionLog, other: RedisSessionLog
) -> None:
    await log.accept_turn(request())
    for turn in ("t2", "t3"):
        await log.accept_turn(request(key(turn), on_busy="queue"))

    assert (await append(log, sealing())).next == "t2"
    assert await other.overdue_turns(10) == [key("t2")]
    taken = await other.take_turn(key("t2"), "n2")
    assert (taken.result, taken.state, taken.takes) == ("taken", "running", 0)
    assert (await append(other, sealing(key("t2"), nonce="n2"))).next == "t3"
    assert (await log.take_turn(key("t3"), "n3")).result == "taken"
    assert (await append(log, sealing(key("t3"), nonce="n3", state="error"))).next is None
    assert (await log.accept_turn(request(key("t4")))).result == "running"


async def test_the_record_and_terminal_of_a_seal_are_kept(log: RedisSessionLog) -> None:
    await log.accept_turn(request())
    answer = await append(log, sealing(state="error"))

    (turn,) = (await log.read_view(SESSION, 5)).turns

    assert (turn.state, turn.parts) == ("error", RECORD)
    assert turn.terminal == (await entries_of(log))[-1]
    assert turn.terminal is not None
    assert (turn.terminal.seq, turn.terminal.entry) == (
        3,
        Event("turn.error", "t1", b'{"parts":[]}', {}, answer.at),
    )


async def test_a_pending_cancel_comes_with_every_answer(log: RedisSessionLog) -> None:
    await log.accept_turn(request())
    await log.cancel_turn(key(), "bob", "")

    assert (await append(log, batch(name="b1"))).cancel_by == "bob"
    assert (await append(log, batch(name="b1"))).cancel_by == "bob"
    assert (await append(log, sealing(counter=1))).cancel_by == "bob"


async def test_a_parked_turn_knows_the_batch_that_parked_it_and_takes_no_other(log: RedisSessionLog) -> None:
    await log.accept_turn(request())
    parking = asking(key(), "r1")

    assert (await append(log, parking)).result == "ok"
    assert (await append(log, parking)).result == "dup"
    assert (await append(log, batch(counter=1))).result == "fenced"


async def test_two_owners_have_sessions_and_turns_of_one_name(log: RedisSessionLog) -> None:
    owners = ["alice", "bob", "a:b", "a%3Ab", "", "{0}", "ä\ud800", "alice:s1"]
    keys = [SessionKey(owner, "s1").turn("t1") for owner in owners]
    for turn in keys:
        assert (await log.accept_turn(request(turn))).result == "running"
    answers = await append(log, *(batch(turn, entries=text(turn, f"of {n}")) for n, turn in enumerate(keys)))

    assert {answer.result for answer in answers} == {"ok"}
    for number, turn in enumerate(keys):
        logged = (await entries_of(log, turn.session_key))[-1].entry
        assert isinstance(logged, Delta)
        assert logged.text == f"of {number}"
    await log.delete_session(keys[0].session_key, "n")
    assert (await log.read_view(keys[0].session_key, 5)).gen is None
    for turn in keys[1:]:
        assert (await log.read_view(turn.session_key, 5)).gen is not None
