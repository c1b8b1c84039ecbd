"""Frames are made by hand, so every one of them is held to its model here, in both codecs."""

from typing import Any

import msgpack
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.core.generated import KINDS, NASTY, ids, names, properly, texts, validated
from turnwire.core.entries import Delta, Event, Logged
from turnwire.core.framing import body_of, encode_logged, frame_of
from turnwire_protocol.codec import JSON, MSGPACK
from turnwire_protocol.events import NUMBERED_TYPES

PARTS = [{"part": 0, "kind": "text", "bytes": 2, "crc32": 4_294_967_295}]
USAGE = {"input_tokens": 3, "output_tokens": 1, "estimated": True}
ASK = {"kind": "tool_result", "detail": {"call": "c", "name": "n", "arguments": "{}"}}
DONE = {
    "finish_reason": "stop",
    "usage": USAGE | {"cached_input_tokens": 1, "reasoning_tokens": 0},
    "cost": {"amount": "0.0012", "currency": "EUR"},
    "model": "m",
    "attempts": 1,
    "first_token_ms": None,
    "duration_ms": 12,
    "parts": PARTS,
    "upstream_stopped": False,
}
ERROR = {
    "error": {"code": "node_lost", "message": "It went away.", "retry": "new_turn"},
    "usage": USAGE,
    "partial": True,
    "parts": PARTS,
}

EVENTS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "turn.accepted": (
        {"input": [{"type": "text", "text": "hi"}], "model": "m", "author": "ann", "again": "t0"},
        {"parent": "", "state": "running"},
    ),
    "turn.started": ({"step": 1, "attempt": 2, "model": "m"}, {}),
    "turn.retrying": ({"attempt": 2, "delay_ms": 500, "code": "upstream_unavailable"}, {}),
    "turn.asked": (ASK, {"request": "part-1"}),
    "turn.responded": ({"request": "part-1", "by": "ann"}, {}),
    "turn.cancelling": ({"by": "ann"}, {}),
    "turn.done": (DONE, {}),
    "turn.error": (ERROR, {}),
    "session.updated": ({"title": None, "metadata": {"a": [1, {"b": None}]}}, {}),
    "session.deleted": ({}, {}),
}
"""One stored event of each type: its body, and the fields that a script of the store decided."""


def logged_event(kind: str) -> Logged:
    body, fields = EVENTS[kind]
    turn = None if kind.startswith("session.") else "t1"
    return Logged(7, 7, Event(kind, turn, orjson.dumps(body), dict(fields), at=1_700_000_000_000))


def test_there_is_an_example_of_every_numbered_frame() -> None:
    assert EVENTS.keys() | {"turn.delta"} == NUMBERED_TYPES


@pytest.mark.parametrize("kind", EVENTS)
def test_the_frame_of_every_event_is_what_its_model_says(kind: str) -> None:
    body, fields = EVENTS[kind]
    frame = frame_of("s1", logged_event(kind))
    validated(frame)
    turn = {} if kind.startswith("session.") else {"turn": "t1"}
    decided = {name: value or None for name, value in fields.items()}
    assert frame == {"type": kind, "session": "s1", **turn, "seq": 7, "at": 1_700_000_000_000, **decided, **body}
    assert next(iter(frame)) == "type"


@pytest.mark.parametrize("kind", EVENTS)
@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])
def test_the_bytes_of_every_event_are_its_frame_in_either_codec(kind: str, codec: Any) -> None:
    logged = logged_event(kind)
    assert codec.decode_object(as_sent(codec, encode_logged(codec, "s1", logged))) == frame_of("s1", logged)


def as_sent(codec: Any, data: bytes) -> bytes | str:
    return data if codec.binary else data.decode()


def test_the_body_of_an_event_is_its_stored_object() -> None:
    assert body_of(Event("turn.started", "t", b'{"step":1}')) == {"step": 1}


def test_a_decided_field_that_is_empty_stands_for_null() -> None:
    accepted = logged_event("turn.accepted")
    assert frame_of("s1", accepted)["parent"] is None
    assert isinstance(accepted.entry, Event)
    accepted.entry.fields["parent"] = "t0"
    assert frame_of("s1", accepted)["parent"] == "t0"


logged_deltas = st.builds(
    lambda seq, width, delta: Logged(seq + width, seq, delta),
    st.integers(1, 2**40),
    st.integers(0, 3),
    st.builds(Delta, ids, st.integers(0, 300), st.sampled_from(KINDS), texts, names, names, st.booleans()),
)


@properly
@given(ids, logged_deltas)
@example("s", Logged(1, 1, Delta("t", 0, "text", "".join(NASTY))))
@example("s", Logged(9, 3, Delta("t", 0, "text", "".join(NASTY), last=True)))
@example("s", Logged(9, 3, Delta("t", 0, "tool_call", '{"q":"\u2028"}', 'c"1', "n\\", last=True)))
def test_a_deltas_bytes_are_its_frame_in_either_codec_whatever_it_says(session: str, logged: Logged) -> None:
    frame = frame_of(session, logged)
    for codec in (JSON, MSGPACK):
        data = encode_logged(codec, session, logged)
        assert codec.decode_object(as_sent(codec, data)) == frame
    # Key order and spacing too: what viewers share must not depend on which way it was made.
    assert encode_logged(JSON, session, logged) == JSON.encode(frame)
    assert orjson.loads(encode_logged(JSON, session, logged)) == frame
    assert msgpack.unpackb(encode_logged(MSGPACK, session, logged)) == frame


@properly
@given(ids, logged_deltas)
def test_the_frame_of_every_delta_is_what_its_model_says(session: str, logged: Logged) -> None:
    delta = logged.entry
    assert isinstance(delta, Delta)
    frame = frame_of(session, logged)
    model = validated(frame)
    assert (model.session, model.turn, model.seq, model.part) == (session, delta.turn, logged.seq, delta.part)
    assert (model.kind, model.text, model.call, model.name) == (delta.kind, delta.text, delta.call, delta.name)
    assert model.first_seq == (None if logged.first_seq == logged.seq else logged.first_seq)
    assert model.last == (True if delta.last else None)
