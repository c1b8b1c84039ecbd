"""A session's state becomes `turn.snapshot` frames, each small enough for every client.

A finished turn comes from its final record, an unfinished one is folded from its entries. Both give the same frame, so
a client cannot tell, and need not know, which it was.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import orjson

from turnwire.core.answer import Answer
from turnwire.core.entries import Delta, Logged
from turnwire.core.framing import frame_of
from turnwire.core.log_values import StoredTurn
from turnwire_protocol.events import Frame
from turnwire_protocol.limits import SNAPSHOT_BYTES_MAX

_ENVELOPE_BYTES = 4_096
"""Room for what stands in every frame: ids, times, names."""


@dataclass(frozen=True, slots=True)
class TurnState:
    """One turn as a snapshot shows it."""

    turn: str
    state: str
    accepted: Logged
    parts: list[dict[str, Any]]
    pending: list[dict[str, Any]]
    terminal: Logged | None


def state_of(stored: StoredTurn) -> TurnState:
    """A turn as the store has it: from its final record, or folded from its entries."""
    if stored.parts is not None:
        parts, pending = cast("list[dict[str, Any]]", orjson.loads(stored.parts)["parts"]), []
    else:
        parts, pending = folded(list(stored.entries))
    return TurnState(stored.turn, stored.state, stored.accepted, parts, pending, stored.terminal)


def folded(entries: list[Logged]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Parts, and asks that still wait, of an unfinished turn."""
    answer = Answer()
    waiting: dict[str, dict[str, Any]] = {}
    for logged in entries:
        entry = logged.entry
        if isinstance(entry, Delta):
            answer.add(entry)
        elif entry.type == "turn.asked":
            request = entry.fields["request"]
            waiting[request] = {"request": request, **orjson.loads(entry.body)}
        elif entry.type == "turn.responded":
            waiting.pop(str(orjson.loads(entry.body)["request"]), None)
    return answer.as_parts(), list(waiting.values())


def snapshot_frames(session: str, turn: TurnState, bytes_max: int = SNAPSHOT_BYTES_MAX) -> list[Frame]:
    """One frame, or several of which all but the first are marked `continued`.

    Pieces of one part are to be joined in order. Asks and the terminal stand in the last frame.
    """
    accepted, terminal = _ends_of(session, turn)
    base = _base_of(session, turn, accepted)
    room = bytes_max - _ENVELOPE_BYTES
    chunks = list(_chunks(accepted["input"], turn.parts, room))
    if len(orjson.dumps([*chunks[-1], turn.pending, terminal])) > room and any(chunks[-1]):
        chunks.append(([], []))
    frames: list[Frame] = []
    for number, (inputs, parts) in enumerate(chunks):
        frame: Frame = {**base, "input": inputs, "parts": parts, "pending": []}
        if number:
            frame["continued"] = True
        frames.append(frame)
    frames[-1]["pending"] = turn.pending
    if terminal is not None:
        frames[-1]["terminal"] = terminal
    return frames


def whole_snapshot(session: str, turn: TurnState) -> Frame:
    """The turn as one `turn.snapshot`, however large: for readers whose messages have no limit."""
    accepted, terminal = _ends_of(session, turn)
    base = _base_of(session, turn, accepted)
    frame: Frame = {**base, "input": accepted["input"], "parts": turn.parts, "pending": turn.pending}
    if terminal is not None:
        frame["terminal"] = terminal
    return frame


def _ends_of(session: str, turn: TurnState) -> tuple[Frame, Frame | None]:
    """The turn's `turn.accepted`, and its terminal if it has one."""
    return frame_of(session, turn.accepted), None if turn.terminal is None else frame_of(session, turn.terminal)


def _base_of(session: str, turn: TurnState, accepted: Frame) -> Frame:
    """What stands in every frame of the turn."""
    return {
        "type": "turn.snapshot",
        "session": session,
        "turn": turn.turn,
        "state": turn.state,
        "parent": accepted["parent"],
        **({"again": accepted["again"]} if accepted.get("again") else {}),
        "model": accepted["model"],
        "author": accepted["author"],
        "at": accepted["at"],
    }


def _chunks(
    inputs: list[dict[str, Any]], parts: list[dict[str, Any]], bytes_max: int
) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Inputs and parts in groups of at most `bytes_max` as JSON; a part's text is cut where it must be."""
    some_inputs: list[dict[str, Any]] = []
    some_parts: list[dict[str, Any]] = []
    used = 0
    for value in inputs:
        size = len(orjson.dumps(value)) + 1
        if used and used + size > bytes_max:
            yield some_inputs, some_parts
            some_inputs, some_parts, used = [], [], 0
        some_inputs.append(value)
        used += size
    for part in parts:
        for piece in _pieces(part, bytes_max):
            size = len(orjson.dumps(piece)) + 1
            if used and used + size > bytes_max:
                yield some_inputs, some_parts
                some_inputs, some_parts, used = [], [], 0
            some_parts.append(piece)
            used += size
    yield some_inputs, some_parts


def _pieces(part: dict[str, Any], bytes_max: int) -> Iterator[dict[str, Any]]:
    """A part whole, or its text in pieces; one character is at most 6 bytes of JSON."""
    if len(orjson.dumps(part)) <= bytes_max:
        yield part
        return
    text = str(part["text"])
    step = max(1, (bytes_max - 512) // 6)
    for start in range(0, len(text) or 1, step):
        piece = {**part, "text": text[start : start + step]}
        piece["last"] = bool(part["last"]) and start + step >= len(text)
        yield piece
