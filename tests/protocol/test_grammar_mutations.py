"""One legal conversation, and what is wrong with it when a frame is dropped, doubled, swapped or altered."""

from typing import Any

import pytest

from tests.protocol.conversations import (
    Json,
    Log,
    Step,
    ack,
    client,
    created,
    creates,
    greeted,
    merged,
    opens,
    play,
    refusal,
    server,
    unopened,
)
from tests.protocol.generated import EVENTS
from turnwire_protocol.grammar import RuleBroken


def conversation() -> list[Step]:
    """Every type of frame, on one connection: a new session with a turn of everything, then a snapshot of another."""
    log = Log("s", "g1")
    log.accepted("t1")
    log.started("t1")
    log.retrying("t1")
    log.started("t1", 1, 2)
    log.delta("t1", "hm", 0, "reasoning")
    log.delta("t1", "", 0, "reasoning", last=True)
    log.delta("t1", '{"a"', 1, "tool_call", call="k", name="pay")
    log.delta("t1", ":1}", 1, "tool_call", last=True)
    log.asked("t1")
    log.responded("t1")
    log.started("t1", 2)
    log.delta("t1", "Paid", 2)
    log.delta("t1", ".", 2)
    log.delta("t1", "!", 2, last=True)
    log.done("t1")
    log.updated()
    log.accepted("t2")
    log.started("t2")
    log.cancelling("t2")
    log.error("t2", "upstream_timeout")
    old = Log("x", "g5")
    old.answer("u1", "One", "two")
    old.accepted("u2")
    old.started("u2")
    old.delta("u2", "half")
    until = old.head
    old.delta("u2", " done", last=True)
    old.done("u2")
    old.deleted()
    frames = [*log.frames[:11], *merged(log.frames[11:13]), *log.frames[13:]]
    return [
        *greeted(),
        *client({"type": "ping", "id": "p"}),
        *server({"type": "pong", "reply_to": "p"}, {"type": "auth.expiring", "expires_at": 1}),
        *client({"type": "dance", "id": "d"}),
        *server(refusal("unsupported", reply_to="d")),
        *client(opens("s")),
        *server(unopened("s", reply_to="o")),
        *client(creates("t1")),
        *server(log.opened(0, "snapshot"), *frames[:1], created("t1", 1), *frames[1:9]),
        *client({"type": "turn.respond", "id": "r", "session": "s", "turn": "t1", "request": "r1", "value": 1}),
        *server(frames[9], ack("r", session="s", turn="t1"), *frames[10:-4]),
        *client(creates("t2")),
        *server(created("t2", 17), *frames[-4:-2]),
        *client({"type": "turn.cancel", "id": "c", "session": "s", "turn": "t2"}),
        *server(ack("c", session="s", turn="t2", result="cancelling"), *frames[-2:]),
        *client(opens("x", id="o2", history=1)),
        *server(*old.snapshot(until, reply_to="o2"), *old.after(until)),
        *client({"type": "session.close", "id": "k", "session": "x"}),
        *server(ack("k", session="x"), {"type": "goaway", "reason": "d", "reconnect_min_ms": 0, "reconnect_max_ms": 1}),
    ]


STEPS = conversation()
SENT = [place for place, (who, _) in enumerate(STEPS) if who == "server"]


def name_of(place: int) -> str:
    """A server frame of STEPS: its type, and which one of them it is, unless it is the only one."""
    frame: Json = STEPS[place][1]
    same = [other for other in SENT if STEPS[other][1]["type"] == frame["type"]]
    return frame["type"] if len(same) == 1 else f"{frame['type']} {same.index(place) + 1}"


PLACES = {name_of(place): place for place in SENT}


def first_rule(steps: list[Step]) -> str | None:
    """The first rule that is broken, if any."""
    try:
        play(steps).finish()
    except RuleBroken as broken:
        return broken.rule
    return None


def test_the_conversation_itself_is_legal_and_has_every_type_of_frame() -> None:
    assert first_rule(STEPS) is None
    assert {STEPS[place][1]["type"] for place in SENT} == set(EVENTS)


def dropped(place: int) -> list[Step]:
    return STEPS[:place] + STEPS[place + 1 :]


def doubled(place: int) -> list[Step]:
    return STEPS[: place + 1] + STEPS[place:]


def swapped(place: int) -> list[Step]:
    """With the frame behind it."""
    return [*STEPS[:place], STEPS[place + 1], STEPS[place], *STEPS[place + 2 :]]


def altered(place: int, **fields: Any) -> list[Step]:
    frame: Json = STEPS[place][1]
    return [*STEPS[:place], *server({**frame, **fields}), *STEPS[place + 1 :]]


WHEN_DROPPED: dict[str, str | None] = {
    "welcome": "HELLO-2",
    "pong": "ANSWER-1",
    "error": "FRAME-4",
    "session.opened 1": "ANSWER-1",
    "session.opened 2": "OPEN-1",
    "session.opened 3": "SNAP-1",
    "turn.snapshot 1": "SNAP-1",
    "turn.snapshot 2": "SNAP-1",
    **{f"ack {number}": "ANSWER-1" for number in range(1, 6)},
    "turn.error": "CANCEL-2",
    # Nothing announces these, so nobody misses them.
    "auth.expiring": None,
    "goaway": None,
    "session.deleted": None,
}
"""Every other frame is numbered, and leaves a hole: SEQ-1."""

WHEN_DOUBLED: dict[str, str | None] = {
    "welcome": "HELLO-2",
    "pong": "ANSWER-2",
    "error": "ANSWER-2",
    "session.opened 1": "ANSWER-2",
    "session.opened 3": "SNAP-1",
    "turn.snapshot 1": "SNAP-2",
    "turn.snapshot 2": "SNAP-1",
    **{f"ack {number}": "ANSWER-2" for number in range(1, 6)},
    # A snapshot of an open session may come at any time, also twice.
    "session.opened 2": None,
    "auth.expiring": None,
    "goaway": None,
}

WHEN_SWAPPED: dict[str, str | None] = {
    "session.opened 2": "OPEN-1",
    "session.opened 3": "SNAP-1",
    "turn.snapshot 2": "SNAP-1",
    # Answers and numbered frames have no order between them, and who reads only this cannot tell the older turn.
    "pong": None,
    "turn.accepted 1": None,
    "turn.responded": None,
    "turn.snapshot 1": None,
    **{f"ack {number}": None for number in range(1, 6)},
}

ALTERED: list[tuple[str, Json, str]] = [
    ("welcome", {"reply_to": "x"}, "ANSWER-2"),
    ("welcome", {"ping_ms": -1}, "FRAME-1"),
    ("pong", {"reply_to": "h"}, "ANSWER-2"),
    ("auth.expiring", {"expires_at": None}, "FRAME-1"),
    ("error", {"error": {"code": "busy", "message": "No.", "retry": "none"}}, "FRAME-4"),
    ("error", {"error": {"code": "oops", "message": "No.", "retry": "none"}}, "FRAME-1"),
    ("session.opened 1", {"session": "y"}, "ANSWER-3"),
    ("session.opened 1", {"seq": 1}, "OPEN-4"),
    ("session.opened 1", {"gen": "g9", "mode": "replay"}, "RESUME-1"),
    ("session.opened 2", {"gen": None}, "OPEN-1"),
    ("session.opened 2", {"seq": 1}, "SEQ-1"),
    ("session.opened 2", {"turns": 1}, "SNAP-1"),
    ("session.opened 2", {"mode": "replay"}, "OPEN-2"),
    ("session.opened 2", {"session": "y"}, "OPEN-2"),
    ("session.opened 3", {"turns": 1}, "SNAP-1"),
    ("session.opened 3", {"turns": 3}, "SNAP-1"),
    ("session.opened 3", {"seq": 7}, "SEQ-1"),
    ("session.opened 3", {"mode": "replay"}, "SNAP-1"),
    ("turn.snapshot 1", {"state": "running"}, "SNAP-3"),
    ("turn.snapshot 1", {"parts": []}, "CHECKSUM-1"),
    ("turn.snapshot 1", {"session": "s"}, "SNAP-1"),
    ("turn.snapshot 2", {"parts": []}, "CHECKSUM-1"),
    ("turn.snapshot 2", {"turn": "u1"}, "SNAP-2"),
    ("turn.snapshot 2", {"state": "queued"}, "TURN-2"),
    ("turn.snapshot 2", {"state": "parked"}, "SNAP-3"),
    ("turn.snapshot 2", {"turn": "u3"}, "TURN-1"),
    ("ack 1", {"turn": "t2"}, "ANSWER-3"),
    ("ack 1", {"seq": 2}, "ANSWER-3"),
    ("ack 1", {"result": "pending"}, "ANSWER-3"),
    ("ack 2", {"seq": 1}, "ANSWER-3"),
    ("ack 3", {"seq": 18}, "ANSWER-3"),
    ("ack 4", {"result": "pending"}, "CANCEL-1"),
    ("ack 5", {"session": "s"}, "ANSWER-3"),
    ("turn.accepted 1", {"turn": "t2"}, "TURN-1"),
    ("turn.accepted 1", {"session": "x"}, "OPEN-1"),
    ("turn.accepted 1", {"seq": 2}, "SEQ-1"),
    ("turn.accepted 1", {"first_seq": 1}, "DELTA-1"),
    ("turn.accepted 1", {"state": "done"}, "FRAME-1"),
    ("turn.accepted 2", {"turn": "t1"}, "TERM-1"),
    ("turn.started 1", {"step": 2}, "TURN-3"),
    ("turn.started 2", {"attempt": 1}, "TURN-3"),
    ("turn.started 3", {"step": 1}, "TURN-3"),
    ("turn.started 3", {"step": 1, "attempt": 3}, "TURN-3"),
    ("turn.retrying", {"attempt": 1}, "TURN-3"),
    ("turn.delta 1", {"part": 1}, "PART-1"),
    ("turn.delta 1", {"text": "hn"}, "CHECKSUM-1"),
    ("turn.delta 1", {"kind": "text"}, "PART-1"),
    ("turn.delta 1", {"name": "n"}, "PART-2"),
    ("turn.delta 1", {"last": True}, "PART-3"),
    ("turn.delta 1", {"turn": "t2"}, "TURN-1"),
    ("turn.delta 1", {"first_seq": 5}, "DELTA-1"),
    ("turn.delta 2", {"text": "."}, "CHECKSUM-1"),
    ("turn.delta 3", {"kind": "data"}, "PART-2"),
    ("turn.delta 5", {"first_seq": 13}, "DELTA-1"),
    ("turn.delta 5", {"first_seq": 11}, "SEQ-1"),
    ("turn.delta 5", {"text": "Paid"}, "CHECKSUM-1"),
    ("turn.asked", {"request": "r2"}, "ASK-1"),
    ("turn.responded", {"request": "r2"}, "ASK-1"),
    ("turn.cancelling", {"turn": "t1"}, "TERM-1"),
    ("turn.done 1", {"parts": []}, "CHECKSUM-1"),
    ("turn.done 1", {"turn": "t2"}, "TURN-1"),
    ("turn.done 1", {"finish_reason": "because"}, "FRAME-1"),
    ("turn.error", {"partial": True}, "PARTIAL-1"),
    ("turn.error", {"turn": "t1"}, "TERM-1"),
    ("turn.error", {"usage": None}, "FRAME-1"),
    ("session.updated", {"seq": 1}, "SEQ-1"),
    ("session.deleted", {"seq": 9}, "SEQ-1"),
    ("goaway", {"reconnect_min_ms": None}, "FRAME-1"),
]


def test_the_tables_name_frames_of_the_conversation() -> None:
    for table in (WHEN_DROPPED, WHEN_DOUBLED, WHEN_SWAPPED, {name for name, _, _ in ALTERED}):
        assert set(table) <= set(PLACES)
    assert {name.split()[0] for name in PLACES} == {name.split()[0] for name, _, _ in ALTERED}


@pytest.mark.parametrize("name", PLACES)
def test_a_dropped_frame_is_missed(name: str) -> None:
    assert first_rule(dropped(PLACES[name])) == WHEN_DROPPED.get(name, "SEQ-1")


@pytest.mark.parametrize("name", PLACES)
def test_a_doubled_frame_is_one_too_many(name: str) -> None:
    assert first_rule(doubled(PLACES[name])) == WHEN_DOUBLED.get(name, "SEQ-1")


@pytest.mark.parametrize("name", [name for name, place in PLACES.items() if place + 1 in SENT])
def test_swapped_frames_are_noticed_where_order_counts(name: str) -> None:
    assert first_rule(swapped(PLACES[name])) == WHEN_SWAPPED.get(name, "SEQ-1")


@pytest.mark.parametrize(("name", "fields", "rule"), ALTERED, ids=lambda value: str(value)[:60])
def test_an_altered_frame_breaks_the_rule_about_what_was_altered(name: str, fields: Json, rule: str) -> None:
    assert first_rule(altered(PLACES[name], **fields)) == rule
