"""The grammar of one turn: which frame may follow which, and what its parts add up to.

    accepted (started | retrying | delta | asked | responded | cancelling)* (done | error)

A TurnState is a value, so that a reader's place in a log can be remembered and gone back to. A text is kept as its
length and checksum: that is all that the terminal proves, and two readers who were sent the same pieces cut differently
have the same.

`unclear` and None stand for what a snapshot or a late reader was not told; such a thing breaks no rule.
"""

import zlib
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from turnwire_protocol.events import Frame
from turnwire_protocol.rules import RuleBroken

Phase = Literal["queued", "waiting", "started", "retrying", "answering", "parked", "unclear"]
"""`waiting`: accepted as running, or between two steps. `answering`: this step has sent a delta."""


class PartState(NamedTuple):
    """One part so far: length and CRC-32 of its text in UTF-8."""

    kind: str
    bytes: int
    crc32: int
    closed: bool


class TurnState(NamedTuple):
    """An unfinished turn at one place in the log."""

    phase: Phase
    step: int | None
    attempt: int | None
    parts: tuple[PartState, ...] | None
    open: frozenset[str] | None
    """Requests that wait for their answer."""
    asked: frozenset[str] | None
    """All requests so far."""


UNTOLD: Final = TurnState("unclear", None, None, None, None, None)
"""A turn whose beginning this reader has not seen."""

_EMPTY: Final[frozenset[str]] = frozenset()


def follow(state: TurnState | None, frame: Frame) -> TurnState | None:
    """The state after a numbered frame of the turn, None after its terminal. `state` None: the turn is not known.

    Raises RuleBroken; nothing has changed then.
    """
    if state is None or frame["type"] == "turn.accepted":
        return _accepted(state, frame)
    return _FOLLOWERS[frame["type"]](state, frame)


def same_content(one: TurnState, other: TurnState) -> bool:
    """Whether two readers at one place have the same of a turn. What one of them was not told is not compared."""
    return one.parts == other.parts and one.open == other.open


def _at(frame: Frame) -> str:
    return f"turn {frame['turn']} at seq {frame['seq']}"


def _accepted(state: TurnState | None, frame: Frame) -> TurnState:
    if state is not None:
        raise RuleBroken("TURN-1", f"{_at(frame)} is accepted again")
    if frame["type"] != "turn.accepted":
        raise RuleBroken("TURN-1", f"{_at(frame)}: {frame['type']} of a turn that was not accepted")
    return TurnState("queued" if frame["state"] == "queued" else "waiting", 0, 0, (), _EMPTY, _EMPTY)


def _started(state: TurnState, frame: Frame) -> TurnState:
    step, attempt = frame["step"], frame["attempt"]
    if state.phase == "parked":
        raise RuleBroken("ASK-2", f"{_at(frame)}: a step starts while a request is open")
    if state.step is not None and state.attempt is not None:
        # A turn that has asked goes on with another step.
        again = step == state.step and attempt > state.attempt and state.phase != "waiting"
        if not again and (step, attempt) != (state.step + 1, 1):
            raise RuleBroken(
                "TURN-3", f"{_at(frame)}: step {step} attempt {attempt} after {state.step} and {state.attempt}"
            )
        if again and state.phase == "answering":
            raise RuleBroken("RETRY-1", f"{_at(frame)}: step {step} starts again")
    return state._replace(phase="started", step=step, attempt=attempt)


def _retrying(state: TurnState, frame: Frame) -> TurnState:
    if state.phase == "answering":
        raise RuleBroken("RETRY-1", f"{_at(frame)}: retrying behind a delta")
    _in_a_step(state, frame)
    if state.attempt is not None and frame["attempt"] <= state.attempt:
        raise RuleBroken("TURN-3", f"{_at(frame)}: attempt {frame['attempt']} after {state.attempt}")
    return state._replace(phase="retrying")


def _in_a_step(state: TurnState, frame: Frame) -> None:
    if state.phase == "parked":
        raise RuleBroken("ASK-2", f"{_at(frame)}: {frame['type']} while a request is open")
    if state.phase in ("queued", "waiting", "retrying"):
        raise RuleBroken("TURN-2", f"{_at(frame)}: {frame['type']} while {state.phase}")


def _delta(state: TurnState, frame: Frame) -> TurnState:
    _in_a_step(state, frame)
    _, step, attempt, parts, waiting, asked = state
    if parts is not None:
        parts = _grown(parts, frame)
    return TurnState("answering", step, attempt, parts, waiting, asked)


def _grown(parts: tuple[PartState, ...], frame: Frame) -> tuple[PartState, ...]:
    number: int = frame["part"]
    if number > len(parts):
        raise RuleBroken("PART-1", f"{_at(frame)}: part {number} is the {len(parts) + 1}. one")
    first = number == len(parts)
    if first:
        part = PartState(frame["kind"], 0, 0, False)
        check_names(frame, _at(frame))
    else:
        part = parts[number]
        if part.kind != frame["kind"]:
            raise RuleBroken("PART-1", f"{_at(frame)}: part {number} was {part.kind} and is {frame['kind']}")
        if part.closed:
            raise RuleBroken("PART-3", f"{_at(frame)}: part {number} goes on behind its last delta")
        if "call" in frame or "name" in frame:
            raise RuleBroken("PART-2", f"{_at(frame)}: part {number} is named again")
    grown = add_text(part, frame["text"], "last" in frame)
    return (*parts[:number], grown, *parts[number + 1 :])


def add_text(part: PartState, text: str, closed: bool) -> PartState:
    """The part with another piece of its text."""
    encoded = text.encode()
    return PartState(part.kind, part.bytes + len(encoded), zlib.crc32(encoded, part.crc32), closed)


def check_names(part: Frame, where: str) -> None:
    """Whether a first delta, or a part of a snapshot, has the names that its kind wants. Raises RuleBroken."""
    named = ("call" in part, "name" in part)
    kind = part["kind"]
    if named != (kind == "tool_call", kind in ("tool_call", "data")):
        raise RuleBroken("PART-2", f"{where}: a {kind} part, with call {named[0]}, with name {named[1]}")


def _asked(state: TurnState, frame: Frame) -> TurnState:
    if state.phase != "parked":
        _in_a_step(state, frame)
    _all_closed(state, frame)
    request = frame["request"]
    if request in (state.open or _EMPTY) or request in (state.asked or _EMPTY):
        raise RuleBroken("ASK-1", f"{_at(frame)}: request {request} is asked again")
    return state._replace(phase="parked", open=_with(state.open, request), asked=_with(state.asked, request))


def _with(requests: frozenset[str] | None, request: str) -> frozenset[str] | None:
    return None if requests is None else requests | {request}


def _responded(state: TurnState, frame: Frame) -> TurnState:
    if state.open is None:
        # One of an unknown number of requests was answered: whether the turn still waits cannot be told.
        return state._replace(phase="unclear")
    request = frame["request"]
    if request not in state.open:
        raise RuleBroken("ASK-1", f"{_at(frame)}: nothing asked for {request}")
    left = state.open - {request}
    return state._replace(phase="parked" if left else "waiting", open=left)


def _cancelling(state: TurnState, _frame: Frame) -> TurnState:
    return state


def _over(state: TurnState, frame: Frame) -> None:
    _all_closed(state, frame)
    if state.parts is not None:
        check_terminal(state.parts, frame)


def _all_closed(state: TurnState, frame: Frame) -> None:
    left = [number for number, part in enumerate(state.parts or ()) if not part.closed]
    if left:
        raise RuleBroken("PART-3", f"{_at(frame)}: {frame['type']} while parts {left} have had no last delta")


def check_terminal(parts: tuple[PartState, ...], terminal: Frame) -> None:
    """Whether a terminal says of the turn's parts what they are. Raises RuleBroken."""
    told = [(part["part"], part["kind"], part["bytes"], part["crc32"]) for part in terminal["parts"]]
    sent = [(number, part.kind, part.bytes, part.crc32) for number, part in enumerate(parts)]
    if told != sent:
        raise RuleBroken("CHECKSUM-1", f"{_at(terminal)} tells of {told}, sent were {sent}")
    if terminal["type"] == "turn.error" and terminal["partial"] != bool(parts):
        raise RuleBroken("PARTIAL-1", f"{_at(terminal)} has {len(parts)} parts, partial {terminal['partial']}")


_FOLLOWERS: Final[dict[str, Callable[[TurnState, Frame], TurnState | None]]] = {
    "turn.started": _started,
    "turn.retrying": _retrying,
    "turn.delta": _delta,
    "turn.asked": _asked,
    "turn.responded": _responded,
    "turn.cancelling": _cancelling,
    "turn.done": _over,
    "turn.error": _over,
}
