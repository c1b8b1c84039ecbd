"""A snapshot as it comes in, and what it says of its place in the log.

Its frames are put together turn by turn, like a client does. What comes out is a Stop, like that of a reader who read
the log up to there; where such a reader is known, both must have the same.
"""

from dataclasses import dataclass, field
from typing import Final

from turnwire_protocol import limits
from turnwire_protocol.codec import JSON
from turnwire_protocol.events import Frame
from turnwire_protocol.grammar_history import Log, States, Stop, same_place
from turnwire_protocol.grammar_turns import PartState, Phase, TurnState, add_text, check_names, check_terminal
from turnwire_protocol.rules import RuleBroken

_PHASES: Final[dict[str, Phase]] = {"running": "unclear", "parked": "parked"}
_ENDED_BY: Final = {"done": "turn.done", "error": "turn.error"}
_SAME_IN_ALL_PIECES: Final = ("state", "parent", "again", "model", "author", "at")


@dataclass(slots=True)
class _Turn:
    """One turn, piece by piece."""

    first: Frame
    newest: Frame
    parts: list[PartState] = field(default_factory=list[PartState])


class SnapshotReader:
    """Takes the frames of one snapshot. `finished_max` is how many finished turns were asked for, None: not said."""

    def __init__(self, opened: Frame, log: Log, finished_max: int | None) -> None:
        self.opened = opened
        self.log = log
        self.left: int = opened["turns"]
        self._finished_max = finished_max
        self._turns: dict[str, _Turn] = {}

    @property
    def _where(self) -> str:
        return f"snapshot of session {self.opened['session']} at seq {self.opened['seq']}"

    def take(self, frame: Frame) -> None:
        """One turn.snapshot. Raises RuleBroken."""
        if frame["session"] != self.opened["session"] or not self.left:
            raise RuleBroken("SNAP-1", f"{self._where}: turn {frame['turn']} of {frame['session']} is none of it")
        size = len(JSON.encode(frame))
        if size > limits.SNAPSHOT_BYTES_MAX:
            raise RuleBroken("SIZE-2", f"{self._where}: turn {frame['turn']} comes in a frame of {size} bytes")
        self.left -= 1
        turn = self._turn_of(frame)
        for part in frame["parts"]:
            self._add(turn, part)
        turn.newest = frame

    def stop(self) -> Stop:
        """The place that the snapshot shows, all frames taken. Raises RuleBroken."""
        log = self.log
        seq: int = self.opened["seq"]
        unfinished: States = {}
        for name, turn in self._turns.items():
            state = self._ended(log, name, turn) if turn.first["state"] in _ENDED_BY else self._unfinished(turn)
            if state is not None:
                unfinished[name] = state
        self._check_choice(log, unfinished)
        for name in unfinished:
            ended = log.over.get(name)
            if ended is not None and ended["seq"] <= seq:
                raise RuleBroken("SNAP-3", f"{self._where}: turn {name} ended at seq {ended['seq']}")
        stop = Stop(self.opened["turn"], unfinished)
        known = log.stops.setdefault(seq, stop)
        if known.turn != stop.turn:
            raise RuleBroken("SEQ-3", f"{self._where} is said to be turn {stop.turn}'s, it is {known.turn}'s")
        if not same_place(known, stop):
            raise RuleBroken("SNAP-3", f"{self._where} is not what was read up to there")
        return known

    # --- turns ----------------------------------------------------------------------------------------------------

    def _turn_of(self, frame: Frame) -> _Turn:
        name = frame["turn"]
        known = self._turns.get(name)
        if "continued" not in frame:
            if known is not None:
                raise RuleBroken("SNAP-2", f"{self._where} shows turn {name} twice")
            known = self._turns[name] = _Turn(frame, frame)
            return known
        if known is None or name != next(reversed(self._turns)):
            raise RuleBroken("SNAP-2", f"{self._where}: a piece of turn {name} does not follow the others")
        if any(known.first.get(field_) != frame.get(field_) for field_ in _SAME_IN_ALL_PIECES):
            raise RuleBroken("SNAP-2", f"{self._where}: the pieces of turn {name} disagree")
        if known.newest["pending"] or "terminal" in known.newest:
            raise RuleBroken("SNAP-2", f"{self._where}: turn {name} goes on behind its last piece")
        return known

    def _add(self, turn: _Turn, part: Frame) -> None:
        where = f"{self._where}, turn {turn.first['turn']}"
        number: int = part["part"]
        parts = turn.parts
        check_names(part, where)
        if number == len(parts):
            parts.append(PartState(part["kind"], 0, 0, False))
        elif number != len(parts) - 1 or parts[number].kind != part["kind"]:
            raise RuleBroken("PART-1", f"{where}: part {number} comes behind part {len(parts) - 1}")
        elif parts[number].closed:
            raise RuleBroken("PART-3", f"{where}: part {number} goes on behind its last piece")
        parts[number] = add_text(parts[number], part["text"], part.get("last", False))

    def _ended(self, log: Log, name: str, turn: _Turn) -> None:
        where = f"{self._where}: turn {name}"
        terminal = turn.newest.get("terminal")
        if terminal is None or terminal["type"] != _ENDED_BY[turn.first["state"]] or turn.newest["pending"]:
            raise RuleBroken("SNAP-3", f"{where} is {turn.first['state']} without a terminal that says so")
        if terminal["turn"] != name or terminal["session"] != self.opened["session"]:
            raise RuleBroken("SNAP-3", f"{where} has the terminal of turn {terminal['turn']}")
        if terminal["seq"] > self.opened["seq"]:
            raise RuleBroken("SNAP-3", f"{where} ended later, at seq {terminal['seq']}")
        check_terminal(tuple(turn.parts), terminal)
        if not all(part.closed for part in turn.parts):
            raise RuleBroken("PART-3", f"{where} has ended and has an open part")
        if log.over.setdefault(name, terminal) != terminal:
            raise RuleBroken("TERM-1", f"{where} has another terminal than at seq {log.over[name]['seq']}")

    def _unfinished(self, turn: _Turn) -> TurnState:
        state, newest = turn.first["state"], turn.newest
        if "terminal" in newest or bool(newest["pending"]) != (state == "parked"):
            raise RuleBroken(
                "SNAP-3", f"{self._where}: turn {newest['turn']} is {state}, its last piece says otherwise"
            )
        requests = frozenset(ask["request"] for ask in newest["pending"])
        if state == "queued":
            return TurnState("queued", 0, 0, tuple(turn.parts), requests, requests)
        return TurnState(_PHASES[state], None, None, tuple(turn.parts), requests, None)

    def _check_choice(self, log: Log, unfinished: States) -> None:
        """Whether these are the turns that the snapshot should hold, as far as is known."""
        finished = len(self._turns) - len(unfinished)
        if self._finished_max is not None and finished > self._finished_max:
            raise RuleBroken("SNAP-4", f"{self._where} has {finished} finished turns, {self._finished_max} were wanted")
        known = log.stops.get(self.opened["seq"])
        missing = sorted(known.states.keys() - self._turns.keys()) if known is not None else []
        if missing:
            raise RuleBroken("SNAP-4", f"{self._where} lacks {missing}, which have not ended")
        places = [place for name in self._turns if (place := log.accepted.setdefault(name, None)) is not None]
        if places != sorted(places):
            raise RuleBroken("SNAP-4", f"{self._where} has its turns in the order {places}")
