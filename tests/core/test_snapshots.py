"""A snapshot shows a turn whole, in frames that every client can take."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.generated import KINDS, NASTY, few, ids, properly, texts, validated
from turnwire.core.answer import Answer
from turnwire.core.entries import Delta, Event, Logged
from turnwire.core.snapshots import TurnState, folded, snapshot_frames, whole_snapshot
from turnwire_protocol.codec import JSON, MSGPACK
from turnwire_protocol.events import Frame
from turnwire_protocol.limits import INPUT_PART_BYTES_MAX, SNAPSHOT_BYTES_MAX

ENVELOPE_BYTES = 4_096
"""What a frame keeps free for ids, times and names."""


def event(kind: str, body: Any, seq: int = 1, **fields: str) -> Logged:
    return Logged(seq, seq, Event(kind, "t1", orjson.dumps(body), fields, at=1_700_000_000_000))


def accepted(inputs: Sequence[Any], **more: str) -> Logged:
    return event("turn.accepted", {"input": inputs, "model": "m", "author": "ann", **more}, parent="", state="running")


def done(parts: Sequence[Any]) -> Logged:
    usage = {"input_tokens": 1, "output_tokens": 1, "estimated": False}
    body = {"finish_reason": "stop", "usage": usage, "model": "m", "attempts": 1, "first_token_ms": 3}
    return event("turn.done", {**body, "duration_ms": 4, "parts": parts}, 9)


def said(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def ask(request: str, arguments: str = "{}") -> dict[str, Any]:
    detail = {"call": "c", "name": "n", "arguments": arguments}
    return {"request": request, "kind": "tool_result", "detail": detail}


def joined(frames: Sequence[Frame]) -> list[dict[str, Any]]:
    """The parts as a client puts them together: pieces of one part in order."""
    parts: dict[int, dict[str, Any]] = {}
    for piece in (piece for frame in frames for piece in frame["parts"]):
        known = parts.get(piece["part"])
        if known is None:
            parts[piece["part"]] = dict(piece)
            continue
        assert not known["last"], "nothing of a part comes behind its last piece"
        assert {**known, "text": "", "last": False} == {**piece, "text": "", "last": False}
        known["text"] += piece["text"]
        known["last"] = piece["last"]
    return list(parts.values())


def size_of(frame: Frame) -> int:
    return max(len(codec.encode(frame)) for codec in (JSON, MSGPACK))


def not_cut_without_need(frames: Sequence[Frame], state: TurnState, bytes_max: int) -> None:
    """A frame ends only where what follows does not fit, and a part is cut only where it has to be."""
    room = bytes_max - ENVELOPE_BYTES
    for frame, following in pairwise(frames):
        nearly = len(orjson.dumps([*frame["input"], *frame["parts"]])) + 4
        behind: list[Any] = [*following["input"], *following["parts"]]
        closing = [following["pending"], following.get("terminal")]
        assert nearly + len(orjson.dumps(behind[0] if behind else closing)) >= room
    pieces = [piece["part"] for frame in frames for piece in frame["parts"]]
    for part in state.parts:
        assert pieces.count(part["part"]) == 1 or len(orjson.dumps(part)) > room


long_texts = st.one_of(texts, st.builds(lambda text, times: text * times, texts, st.integers(1, 700)))


@st.composite
def parts_of_answers(draw: st.DrawFn) -> list[dict[str, Any]]:
    answer = Answer()
    for number, text in enumerate(draw(st.lists(long_texts, max_size=6))):
        kind = draw(st.sampled_from(KINDS))
        name = draw(st.sampled_from([None, "n", "\x01" * 128]))
        answer.add(Delta("t1", number, kind, text, "c" if name else None, name, draw(st.booleans())))
    return answer.as_parts()


def put_together(frames: Sequence[Frame], state: TurnState, inputs: Sequence[Any]) -> None:
    """Holds all frames of one turn to what they stand for."""
    assert [frame.get("continued") for frame in frames] == [None] + [True] * (len(frames) - 1)
    assert [one for frame in frames for one in frame["input"]] == list(inputs)
    assert joined(frames) == state.parts
    assert [frame["pending"] for frame in frames[:-1]] == [[]] * (len(frames) - 1)
    assert frames[-1]["pending"] == state.pending
    assert ["terminal" in frame for frame in frames] == [False] * (len(frames) - 1) + [state.terminal is not None]
    for frame in frames:
        validated(frame)
        assert (frame["session"], frame["turn"], frame["state"]) == ("s1", state.turn, state.state)


@few
@given(
    st.integers(16_384, 40_000),
    st.lists(st.builds(lambda text, times: said((text or "-") * times), texts, st.integers(1, 60)), max_size=6),
    parts_of_answers(),
    st.lists(ids.map(ask), max_size=3),
    st.sampled_from([0, 1, 150]),
)
def test_every_frame_is_small_enough_and_together_they_are_the_whole_turn(
    bytes_max: int, inputs: list[Any], parts: list[Any], pending: list[Any], summaries: int
) -> None:
    summary = {"part": 100_000, "kind": "tool_call", "bytes": 2**31, "crc32": 2**32 - 1}
    terminal = done([summary] * summaries) if summaries else None
    state = TurnState("t1", "running", accepted(inputs), parts, pending, terminal)
    frames = snapshot_frames("s1", state, bytes_max)
    put_together(frames, state, inputs)
    not_cut_without_need(frames, state, bytes_max)
    assert max(map(size_of, frames)) <= bytes_max


def test_a_small_turn_is_one_frame_with_everything_in_it() -> None:
    parts = [{"part": 0, "kind": "text", "text": "yes", "last": True}]
    summary = [{"part": 0, "kind": "text", "bytes": 3, "crc32": 2_407_617_029}]
    state = TurnState("t1", "done", accepted([said("hi?")], again="t0"), parts, [], done(summary))
    (frame,) = snapshot_frames("s1", state)
    put_together([frame], state, [said("hi?")])
    terminal = frame.pop("terminal")
    assert (terminal["type"], terminal["seq"], terminal["parts"]) == ("turn.done", 9, summary)
    assert frame == {
        "type": "turn.snapshot",
        "session": "s1",
        "turn": "t1",
        "state": "done",
        "parent": None,
        "again": "t0",
        "model": "m",
        "author": "ann",
        "at": 1_700_000_000_000,
        "input": [said("hi?")],
        "parts": parts,
        "pending": [],
    }


def test_a_turn_that_has_only_begun_is_a_frame_too() -> None:
    state = TurnState("t1", "queued", accepted([said("hi?")]), [], [], None)
    (frame,) = snapshot_frames("s1", state)
    put_together([frame], state, [said("hi?")])
    assert "again" not in frame and "terminal" not in frame


@pytest.mark.parametrize("char", ["a", '"', "\x00", "é", "漢", "😀", "\u2028"])
def test_a_long_answer_is_cut_between_characters_whatever_they_cost_as_json(char: str) -> None:
    parts = [{"part": 0, "kind": "text", "text": char * 400_000, "last": True}]
    state = TurnState("t1", "running", accepted([said("hi?")]), parts, [], None)
    frames = snapshot_frames("s1", state)
    put_together(frames, state, [said("hi?")])
    assert max(map(size_of, frames)) <= SNAPSHOT_BYTES_MAX
    # As few as a careful count allows: pieces are cut as though each character were the dearest.
    assert len(frames) <= 2 + 400_000 * 6 // (SNAPSHOT_BYTES_MAX - 8_192)


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_a_part_whose_text_ends_with_a_piece_has_its_last_piece_marked(more: int) -> None:
    piece_chars = (16_384 - ENVELOPE_BYTES - 512) // 6
    parts = [{"part": 0, "kind": "text", "text": "\x01" * (3 * piece_chars + more), "last": True}]
    state = TurnState("t1", "running", accepted([said("hi?")]), parts, [], None)
    frames = snapshot_frames("s1", state, 16_384)
    put_together(frames, state, [said("hi?")])
    pieces = [piece for frame in frames for piece in frame["parts"]]
    assert [piece["last"] for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert len(pieces) == (4 if more == 1 else 3)


def test_the_largest_inputs_that_a_command_may_hold_go_into_frames_that_fit() -> None:
    largest = said("x" * INPUT_PART_BYTES_MAX)
    inputs = [largest, said("and"), largest]
    parts = [{"part": 0, "kind": "text", "text": "long " * 20_000, "last": False}]
    state = TurnState("t1", "running", accepted(inputs), parts, [], None)
    frames = snapshot_frames("s1", state)
    put_together(frames, state, inputs)
    assert max(map(size_of, frames)) <= SNAPSHOT_BYTES_MAX


def test_asks_and_a_terminal_that_do_not_fit_behind_the_answer_get_a_frame_of_their_own() -> None:
    arguments = "1," * 100_000
    parts = [
        {"part": number, "kind": "tool_call", "text": arguments, "call": "c", "name": "n", "last": True}
        for number in range(2)
    ]
    pending = [ask(f"part-{number}", arguments) for number in range(2)]
    state = TurnState("t1", "parked", accepted([said("go")]), parts, pending, None)
    frames = snapshot_frames("s1", state)
    put_together(frames, state, [said("go")])
    assert max(map(size_of, frames)) <= SNAPSHOT_BYTES_MAX
    assert (frames[-1]["input"], frames[-1]["parts"]) == ([], [])


def test_thousands_of_tiny_parts_fit_with_their_commas() -> None:
    parts = [{"part": number, "kind": "data", "text": "", "last": True} for number in range(20_000)]
    state = TurnState("t1", "running", accepted([]), parts, [], None)
    frames = snapshot_frames("s1", state)
    put_together(frames, state, [])
    assert max(map(size_of, frames)) <= SNAPSHOT_BYTES_MAX


def test_a_part_that_is_too_long_but_for_its_text_is_not_lost() -> None:
    parts = [{"part": 0, "kind": "tool_call", "text": "", "call": "c", "name": "\x01" * 128, "last": True}]
    state = TurnState("t1", "running", accepted([]), parts, [], None)
    frames = snapshot_frames("s1", state, 4_500)
    put_together(frames, state, [])


# --- folded -----------------------------------------------------------------------------------------------------------


@properly
@given(st.lists(st.tuples(st.integers(0, 3), texts), max_size=12))
def test_the_parts_of_an_unfinished_turn_are_those_of_its_deltas(pieces: list[tuple[int, str]]) -> None:
    deltas = [Delta("t1", part, "text", text) for part, text in pieces]
    answer = Answer()
    answer.add_all(deltas)
    logged = [event("turn.started", {"step": 1, "attempt": 1, "model": "m"})]
    logged += [Logged(seq, seq, delta) for seq, delta in enumerate(deltas, 2)]
    assert folded(logged) == (answer.as_parts(), [])


def test_an_ask_is_pending_until_it_is_answered() -> None:
    def asked(request: str) -> Logged:
        return event("turn.asked", {"kind": "approval", "detail": {"of": request}}, request=request)

    def responded(request: str) -> Logged:
        return event("turn.responded", {"request": request, "by": "ann"})

    waiting = [{"request": request, "kind": "approval", "detail": {"of": request}} for request in "abc"]
    history = [asked("a"), asked("b"), asked("c")]
    assert folded(history) == ([], waiting)
    assert folded([*history, responded("b")]) == ([], [waiting[0], waiting[2]])
    assert folded([*history, responded("b"), responded("b"), responded("a"), responded("c")]) == ([], [])


def test_text_of_any_kind_survives_the_way_into_a_snapshot() -> None:
    text = "".join(NASTY)
    parts, pending = folded([Logged(1, 1, Delta("t1", 0, "text", text, last=True))])
    (frame,) = snapshot_frames("s1", TurnState("t1", "running", accepted([said(text)]), parts, pending, None))
    assert orjson.loads(orjson.dumps(frame))["parts"][0]["text"] == text
    assert validated(frame).input[0].text == text


def test_a_whole_snapshot_is_what_the_pieces_are_when_put_together() -> None:
    text = "ü" * SNAPSHOT_BYTES_MAX
    parts = [{"part": 0, "kind": "text", "text": text, "last": True}]
    inputs = [said("x" * INPUT_PART_BYTES_MAX), said("y" * INPUT_PART_BYTES_MAX)]
    state = TurnState("t1", "done", accepted(inputs, again="t0"), parts, [], done([]))

    whole = whole_snapshot("s1", state)

    pieces = snapshot_frames("s1", state)
    assert len(pieces) > 3
    assert [value for piece in pieces for value in piece["input"]] == whole["input"] == inputs
    assert joined(pieces) == whole["parts"]
    (first, *_, last) = pieces
    assert whole == {**first, "input": inputs, "parts": parts, "terminal": last["terminal"]}
    assert "continued" not in whole


def test_a_whole_snapshot_of_an_unfinished_turn_has_what_it_waits_for_and_no_terminal() -> None:
    state = TurnState("t1", "parked", accepted([said("hi")]), [], [ask("r1")], None)
    assert whole_snapshot("s1", state) == snapshot_frames("s1", state)[0]
