"""What a client knows of its sessions: frames go in, turns with their parts come out.

Pure: no socket, no clock; time comes in as an argument, what is to be sent goes out as an effect. This is the client
rule of docs/protocol.md, and the model for clients in other languages:

* a frame at or before the last seq is dropped; the one that continues it is applied; anything else means that
  something is missing, and the session is opened again from the cursor;
* while an open is unanswered, everything of that session is dropped, because it may belong to the old cursor;
* the log's generation is taken from session.opened alone, and a snapshot takes the place of all that was known, but
  only once it is whole: until then the old cursor stays valid;
* a terminal is believed when it proves every part by length and checksum.

So text is never doubled, skipped or spliced, whatever is cut, resent or reordered. What does not add up is asked for
again, without a cursor the second time, and is shown as broken the third time, so that no loop goes on for ever.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

from turnwire.chat.turns import GONE, LOST, Fault, Turn
from turnwire_protocol.events import TERMINAL_TYPES, Frame

REOPEN_WINDOW_MS: Final = 10_000
REOPENS_MAX: Final = 2
"""Within the window; a third one is an error."""

TURNS_MAX: Final = 1_000
"""Kept a session; beyond it the oldest that have ended are forgotten."""

HISTORY: Final = 20
"""Turns asked for when nobody says how many."""

_UNNUMBERED: Final = frozenset(["ack", "error", "pong", "welcome", "goaway", "auth.expiring"])


class BadFrame(Exception):
    """A frame that lacks what its type must have."""


@dataclass(frozen=True, slots=True)
class Open:
    """Effect: send this session.open."""

    id: str
    session: str
    after: Frame | None
    history: int

    def frame(self) -> Frame:
        after = {} if self.after is None else {"after": self.after}
        return {"type": "session.open", "id": self.id, "session": self.session, "history": self.history, **after}


@dataclass(frozen=True, slots=True)
class Opened:
    """Effect: an open was answered, or a snapshot came unasked; the session is up to date."""

    session: str


@dataclass(frozen=True, slots=True)
class Updated:
    """Effect: something of a turn is new."""

    turn: Turn


@dataclass(frozen=True, slots=True)
class Ended:
    """Effect: the turn has its end; told once for each turn that was not known to have ended."""

    turn: Turn


@dataclass(frozen=True, slots=True)
class Broken:
    """Effect: the session cannot be followed any more, for this reason."""

    session: str
    reason: str


Effect = Open | Opened | Updated | Ended | Broken


@dataclass(slots=True)
class _Staged:
    """A snapshot on its way: `frames_left` more turn.snapshot frames make it whole."""

    place: Frame
    frames_left: int
    turns: dict[str, Turn] = field(default_factory=dict[str, Turn])


@dataclass(slots=True)
class Session:
    """One session as far as this client knows it."""

    id: str
    history: int
    gen: str | None = None
    seq: int = 0
    turn: str | None = None
    """Of the entry at `seq`."""
    turns: dict[str, Turn] = field(default_factory=dict[str, Turn])
    """In the order of their acceptance."""
    title: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    deleted: bool = False
    broken: str | None = None
    waiting_for: str | None = None
    """The id of the open that is unanswered."""
    staged: _Staged | None = None
    reopened_at: deque[int] = field(default_factory=lambda: deque[int](maxlen=REOPENS_MAX))

    @property
    def cursor(self) -> Frame | None:
        return None if self.gen is None else {"gen": self.gen, "seq": self.seq, "turn": self.turn}

    @property
    def active(self) -> list[Turn]:
        """Turns without an end."""
        return [turn for turn in self.turns.values() if not turn.ended]


class Transcript:
    """All sessions of one client. Every method returns what is to be done about it, in order."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self._opens = 0

    def open(self, session: str, history: int = HISTORY) -> Open:
        """Follow a session, from a snapshot of its last `history` turns on."""
        known = self.sessions.setdefault(session, Session(session, history))
        known.history = history
        known.broken = None
        known.reopened_at.clear()
        return self._open(known, None)

    def close(self, session: str) -> None:
        """Forget a session."""
        self.sessions.pop(session, None)

    def resume(self) -> list[Open]:
        """The connection is a new one: open every session from where it stands."""
        return [self._open(known, known.cursor) for known in self.sessions.values() if known.broken is None]

    def awaits(self, open_id: str) -> bool:
        """Whether the open of this id has no answer yet, and still counts."""
        return any(known.waiting_for == open_id for known in self.sessions.values())

    def refused(self, open_id: str, reason: str) -> list[Effect]:
        """An open was answered with an error."""
        for known in self.sessions.values():
            if known.waiting_for == open_id:
                return self._break(known, reason)
        return []

    def receive(self, frame: Frame, now_ms: int) -> list[Effect]:
        """A frame from the server. Raises BadFrame."""
        known = self.sessions.get(str(frame.get("session")))
        if known is None or frame.get("type") in _UNNUMBERED:
            return []
        try:
            if frame["type"] == "session.opened":
                return self._opened(known, frame, now_ms)
            if known.waiting_for is not None or known.broken is not None:
                return []
            if frame["type"] == "turn.snapshot":
                return self._snapshot(known, frame, now_ms)
            return self._numbered(known, frame, now_ms) if "seq" in frame else []
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BadFrame(f"{frame.get('type')}: {type(error).__name__}") from error

    # --- opening ---------------------------------------------------------------------------------------------------

    def _open(self, known: Session, after: Frame | None) -> Open:
        self._opens += 1
        known.waiting_for = f"open-{self._opens}"
        known.staged = None
        return Open(known.waiting_for, known.id, after, known.history)

    def _reopen(self, known: Session, after: Frame | None, reason: str, now_ms: int) -> list[Effect]:
        """Something is missing or wrong. `after` is honoured only the first time."""
        recent = [at for at in known.reopened_at if now_ms - at < REOPEN_WINDOW_MS]
        if len(recent) >= REOPENS_MAX:
            return self._break(known, f"{reason}, for the third time within {REOPEN_WINDOW_MS // 1000} s")
        known.reopened_at.append(now_ms)
        return [self._open(known, None if recent else after)]

    def _break(self, known: Session, reason: str) -> list[Effect]:
        known.broken = reason
        known.waiting_for = None
        known.staged = None
        return [Broken(known.id, reason)]

    def _opened(self, known: Session, frame: Frame, now_ms: int) -> list[Effect]:
        # None answers None too: a session.opened that nobody asked for, while none is awaited.
        if frame.get("reply_to") != known.waiting_for or known.broken is not None:
            return []
        known.waiting_for = None
        known.staged = None
        if frame["mode"] == "replay":
            if (frame["gen"], frame["seq"]) != (known.gen, known.seq):
                return self._reopen(known, None, "the server replays from another place", now_ms)
            return [Opened(known.id)]
        known.staged = _Staged(frame, int(frame["turns"]))
        return self._adopt(known, known.staged, now_ms) if not frame["turns"] else []

    def _snapshot(self, known: Session, frame: Frame, now_ms: int) -> list[Effect]:
        staged = known.staged
        turn = str(frame["turn"])
        # A turn goes on in frames of its own; a second first one, or a rest without a first, is not a snapshot of ours.
        if staged is None or bool(frame.get("continued")) is not (turn in staged.turns):
            return self._reopen(known, known.cursor, "a snapshot does not add up", now_ms)
        if turn in staged.turns:
            staged.turns[turn].extend_snapshot(frame)
        else:
            staged.turns[turn] = Turn.from_snapshot(known.id, frame)
        staged.frames_left -= 1
        return self._adopt(known, staged, now_ms) if staged.frames_left == 0 else []

    def _adopt(self, known: Session, staged: _Staged, now_ms: int) -> list[Effect]:
        """The snapshot is whole: it takes the place of everything."""
        if any(turn.terminal is not None and not turn.proved_by(turn.terminal) for turn in staged.turns.values()):
            return self._reopen(known, None, "an answer's checksum is wrong", now_ms)
        before, known.turns = known.turns, staged.turns
        known.staged = None
        known.deleted = False
        known.gen, known.seq, known.turn = staged.place["gen"], int(staged.place["seq"]), staged.place["turn"]
        effects: list[Effect] = [Opened(known.id)]
        for turn in known.turns.values():
            earlier = before.get(turn.id)
            news = turn.ended and (earlier is None or not earlier.ended)
            effects.append(Ended(turn) if news else Updated(turn))
        # Fewer turns than asked for are all there are: then what is missing is lost, else it is only further back.
        why = LOST if len(known.turns) < known.history else GONE
        for turn in before.values():
            if not turn.ended and turn.id not in known.turns:
                turn.lose(why)
                effects.append(Ended(turn))
        return effects

    # --- numbered frames -------------------------------------------------------------------------------------------

    def _numbered(self, known: Session, frame: Frame, now_ms: int) -> list[Effect]:
        seq = int(frame["seq"])
        first_seq = int(frame.get("first_seq", seq))
        if seq <= known.seq and known.gen is not None:
            return []
        if known.gen is None or known.staged is not None or first_seq != known.seq + 1:
            return self._reopen(known, known.cursor, f"frames after {known.seq} are missing", now_ms)
        turn = known.turns.get(str(frame.get("turn")))
        if turn is not None:
            if turn.ended:
                return self._reopen(known, None, "a frame follows the end of its turn", now_ms)
            if frame["type"] in TERMINAL_TYPES and not turn.proved_by(frame):
                return self._reopen(known, None, "an answer's checksum is wrong", now_ms)
        effects = self._apply(known, turn, frame)
        known.seq = seq
        known.turn = frame.get("turn")
        return effects

    def _apply(self, known: Session, turn: Turn | None, frame: Frame) -> list[Effect]:
        match frame["type"]:
            case "turn.accepted":
                turn = known.turns[frame["turn"]] = Turn.from_accepted(frame)
                _forget_oldest(known)
            case "session.updated":
                known.title, known.metadata = frame["title"], dict(frame["metadata"])
            case "session.deleted":
                known.deleted = True
                return self._end_all(known, Fault("not_found", "The conversation was deleted.", "none"))
            case _ if turn is None:
                return []  # of a turn that no snapshot showed, or of a kind that is newer than this client
            case _:
                turn.apply(frame)
        if turn is None:
            return []
        return [Ended(turn) if turn.ended else Updated(turn)]

    def _end_all(self, known: Session, why: Fault) -> list[Effect]:
        ended: list[Effect] = []
        for turn in known.active:
            turn.lose(why)
            ended.append(Ended(turn))
        return ended


def _forget_oldest(known: Session) -> None:
    if len(known.turns) > TURNS_MAX:
        oldest = next((turn.id for turn in known.turns.values() if turn.ended), None)
        if oldest is not None:
            del known.turns[oldest]
