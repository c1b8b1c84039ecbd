"""What verifiers have seen of logs, and readers that stand in them.

A Log is what is known of one generation of one session, whoever read it: the state at each place where a reader stood
that knew all before it, the events by their seq, and the turns that are over. So a reader that goes on from a place
where another one was, or that is sent the same again after a reconnect, is held to the same history.

A history grows with what it is shown and forgets nothing; it is meant to live as long as a test or a recording.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from turnwire_protocol.events import Frame
from turnwire_protocol.grammar_turns import UNTOLD, TurnState, follow, same_content
from turnwire_protocol.rules import RuleBroken

States = dict[str, TurnState]
"""The unfinished turns at one place, in the order in which they were accepted. Replaced, never changed."""


class Stop(NamedTuple):
    """A place in a log: the turn of its entry, and the unfinished turns behind it."""

    turn: str | None
    states: States


@dataclass(slots=True)
class Log:
    """One generation of one session."""

    stops: dict[int, Stop] = field(default_factory=lambda: {0: Stop(None, {})})
    events: dict[int, Frame] = field(default_factory=dict[int, Frame])
    """Numbered frames but deltas, which may come in other pieces every time."""
    accepted: dict[str, int | None] = field(default_factory=dict[str, int | None])
    """Turns that exist, and where their turn.accepted stands; None where only a snapshot told of it."""
    over: dict[str, Frame] = field(default_factory=dict[str, Frame])
    """The frame that ended each finished turn: its terminal, or session.deleted."""
    deleted: Frame | None = None


@dataclass(slots=True)
class History:
    """One user's logs, for all verifiers of that user's connections.

    `gens` is the generation that a connection was told last, `digests` what each acknowledged turn.create said,
    `responses` what each acknowledged turn.respond said, by gen, session, turn and request.
    """

    logs: dict[tuple[str, str], Log] = field(default_factory=dict[tuple[str, str], Log])
    gens: dict[str, str] = field(default_factory=dict[str, str])
    digests: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    responses: dict[tuple[str, str, str, str], Any] = field(default_factory=dict[tuple[str, str, str, str], Any])

    def log(self, session: str, gen: str) -> Log:
        """The log of this session and generation, which is the session's newest as far as is known."""
        self.gens[session] = gen
        return self.logs.setdefault((session, gen), Log())

    def newest(self, session: str) -> Log | None:
        """The log that a connection was told of last."""
        gen = self.gens.get(session)
        return None if gen is None else self.logs[session, gen]


class Reader:
    """A cursor on a session. `log` None: the session has no turn yet, so nothing can be read.

    A reader is `complete` when it knows every turn that is unfinished at its place.
    """

    def __init__(self, session: str, gen: str | None, log: Log | None, seq: int, stop: Stop | None) -> None:
        self.session = session
        self.gen = gen
        self.log = log
        self.seq = seq
        self.states: States = stop.states if stop is not None else {}
        self.complete = stop is not None
        self.acked: dict[str, int] = {}
        """Turn to the seq of its turn.accepted, as acks on this connection told."""
        self.to_end: set[str] = set()
        """Turns that an acknowledged turn.cancel ends."""

    def take(self, frame: Frame) -> None:
        """A numbered frame of this session. Raises RuleBroken."""
        log = self.log
        if log is None:
            raise RuleBroken("OPEN-1", f"session {self.session} has no gen, but seq {frame['seq']} comes")
        kind, seq, turn = frame["type"], frame["seq"], None
        self._check_place(log, frame)
        if kind == "session.deleted":
            self._delete(log, frame)
        elif kind == "session.updated":
            self._log_goes_on(log, seq)
        else:
            turn = frame["turn"]
            self._follow(log, turn, frame)
        if kind != "turn.delta":
            log.events[seq] = frame
        self.seq = seq
        if self.complete:
            self._compare(log, Stop(turn, self.states))

    def at_rest(self) -> None:
        """Nothing more is on its way. Raises RuleBroken for what should have come."""
        for turn, seq in self.acked.items():
            if seq > self.seq:
                raise RuleBroken("SEQ-4", f"turn {turn} was acknowledged at seq {seq}, the cursor is at {self.seq}")
        for turn in self.to_end:
            if self.log is None or turn not in self.log.over:
                raise RuleBroken("CANCEL-2", f"turn {turn} was cancelled and has no terminal")

    # --- within ---------------------------------------------------------------------------------------------------

    def _check_place(self, log: Log, frame: Frame) -> None:
        """Whether the frame continues the cursor, and is what others were sent there."""
        kind, seq = frame["type"], frame["seq"]
        first_seq = frame.get("first_seq", seq)
        if "first_seq" in frame and (kind != "turn.delta" or first_seq >= seq):
            raise RuleBroken("DELTA-1", f"{kind} of seq {seq} has first_seq {first_seq}")
        if first_seq != self.seq + 1:
            raise RuleBroken("SEQ-1", f"session {self.session}: seq {first_seq} comes behind {self.seq}")
        if log.events.get(seq, frame) != frame:
            raise RuleBroken("SEQ-2", f"session {self.session} gen {self.gen} had another frame at seq {seq}")
        for place in range(first_seq, seq):
            stop = log.stops.get(place)
            if place in log.events or (stop is not None and stop.turn != frame["turn"]):
                raise RuleBroken("DELTA-2", f"the delta of seqs {first_seq} to {seq} hides another frame at {place}")

    def _follow(self, log: Log, turn: str, frame: Frame) -> None:
        kind, seq = frame["type"], frame["seq"]
        self._log_goes_on(log, seq)
        ended = log.over.get(turn)
        if ended is not None and ended["seq"] < seq:
            raise RuleBroken("TERM-1", f"turn {turn} ended at seq {ended['seq']}, {kind} comes at {seq}")
        state = self.states.get(turn)
        if state is None and not self.complete and kind != "turn.accepted":
            state = UNTOLD
        following = follow(state, frame)
        if kind == "turn.started":
            self._check_order(turn, seq)
        elif kind == "turn.accepted":
            self._note_accepted(log, turn, seq)
        if following is not None:
            self.states = {**self.states, turn: following}
            return
        self.states = {name: other for name, other in self.states.items() if name != turn}
        if log.over.setdefault(turn, frame)["seq"] != seq:
            raise RuleBroken("TERM-1", f"turn {turn} ends at seq {seq} and at {log.over[turn]['seq']}")

    def _log_goes_on(self, log: Log, seq: int) -> None:
        if log.deleted is not None and log.deleted["seq"] < seq:
            raise RuleBroken(
                "TERM-2", f"session {self.session} was deleted at seq {log.deleted['seq']}, seq {seq} comes"
            )

    def _delete(self, log: Log, frame: Frame) -> None:
        self._log_goes_on(log, frame["seq"])
        log.deleted = frame
        for turn in self.states:
            log.over.setdefault(turn, frame)
        self.states = {}

    def _check_order(self, turn: str, seq: int) -> None:
        """One active turn a session, and the queue in its order."""
        queued_before = self.states[turn].phase == "queued" if turn in self.states else False
        for name, state in self.states.items():
            if name == turn:
                queued_before = False
            elif state.phase != "queued":
                raise RuleBroken("BUSY-1", f"turn {turn} starts at seq {seq} while turn {name} is {state.phase}")
            elif queued_before:
                raise RuleBroken("BUSY-2", f"turn {turn} starts at seq {seq} before turn {name}")

    def _note_accepted(self, log: Log, turn: str, seq: int) -> None:
        known = log.accepted.get(turn)
        if known is not None and known != seq:
            raise RuleBroken("TURN-1", f"turn {turn} is accepted at seq {seq} and at {known}")
        log.accepted[turn] = seq
        acked = self.acked.get(turn, seq)
        if acked != seq:
            raise RuleBroken("ANSWER-3", f"turn {turn} was acknowledged at seq {acked} and is accepted at {seq}")

    def _compare(self, log: Log, stop: Stop) -> None:
        known = log.stops.setdefault(self.seq, stop)
        if known is not stop and not same_place(known, stop):
            raise RuleBroken("SEQ-2", f"session {self.session} gen {self.gen} had another text at seq {self.seq}")


def same_place(one: Stop, other: Stop) -> bool:
    """Whether two readers at one place have the same."""
    return (
        one.turn == other.turn
        and one.states.keys() == other.states.keys()
        and all(same_content(state, other.states[turn]) for turn, state in one.states.items())
    )
