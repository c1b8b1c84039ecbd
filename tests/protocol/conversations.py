"""A small model of a server's log, and conversations to verify.

The model is written apart from the verifier: it keeps whole texts, so what it says of a place in the log is worked out
in another way than the verifier does.
"""

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from turnwire_protocol.grammar import History, Verifier

Json = dict[str, Any]

AT = 1_700_000_000_000
USAGE: Json = {"input_tokens": 1, "output_tokens": 2, "estimated": False}
LIMITS = {
    "frame_bytes_max": 1_048_576,
    "input_bytes_max": 480_000,
    "frames_per_s": 50,
    "bytes_per_s": 1_000_000,
    "sessions_open_max": 16,
    "turns_running_max": 4,
    "history_turns_max": 200,
}


def error_body(code: str) -> Json:
    return {"code": code, "message": "Something is not as it should be.", "retry": "none"}


@dataclass
class _Turn:
    """What a reader of the log has of one turn."""

    accepted: Json
    state: str
    parts: list[Json] = field(default_factory=list[Json])
    pending: list[Json] = field(default_factory=list[Json])
    terminal: Json | None = None


class Log:
    """A session's log as a server writes it. Every method appends one numbered frame and returns it."""

    def __init__(self, session: str = "s", gen: str = "g1") -> None:
        self.session = session
        self.gen = gen
        self.frames: list[Json] = []

    # --- writing --------------------------------------------------------------------------------------------------

    def append(self, kind: str, turn: str | None, /, **fields: Any) -> Json:
        frame: Json = {"type": kind, "session": self.session, "seq": len(self.frames) + 1}
        if turn is not None:
            frame["turn"] = turn
        if kind != "turn.delta":
            frame["at"] = AT + frame["seq"]
        frame.update(fields)
        self.frames.append(frame)
        return frame

    def accepted(self, turn: str, state: str = "running", **more: Any) -> Json:
        fields = {"input": [{"type": "text", "text": f"ask {turn}"}], "parent": None, "model": "m", "author": "ann"}
        return self.append("turn.accepted", turn, **{**fields, **more}, state=state)

    def started(self, turn: str, step: int = 1, attempt: int = 1) -> Json:
        return self.append("turn.started", turn, step=step, attempt=attempt, model="m")

    def retrying(self, turn: str, attempt: int = 2) -> Json:
        return self.append("turn.retrying", turn, attempt=attempt, delay_ms=100, code="upstream_unavailable")

    def delta(self, turn: str, text: str, part: int = 0, kind: str = "text", **more: Any) -> Json:
        return self.append("turn.delta", turn, part=part, kind=kind, text=text, **more)

    def asked(self, turn: str, request: str = "r1") -> Json:
        return self.append("turn.asked", turn, request=request, kind="approval", detail={"what": "pay"})

    def responded(self, turn: str, request: str = "r1") -> Json:
        return self.append("turn.responded", turn, request=request, by="ann")

    def cancelling(self, turn: str) -> Json:
        return self.append("turn.cancelling", turn, by="ann")

    def done(self, turn: str, finish_reason: str = "stop", **more: Any) -> Json:
        fields: Json = {
            "finish_reason": finish_reason,
            "usage": USAGE,
            "model": "m",
            "attempts": 1,
            "first_token_ms": None,
        }
        fields.update(duration_ms=5, parts=self._summaries(turn))
        return self.append("turn.done", turn, **{**fields, **more})

    def error(self, turn: str, code: str = "node_lost", **more: Any) -> Json:
        parts = self._summaries(turn)
        fields = {"error": error_body(code), "usage": USAGE, "partial": bool(parts), "parts": parts}
        return self.append("turn.error", turn, **{**fields, **more})

    def updated(self, title: str | None = "Sky") -> Json:
        return self.append("session.updated", None, title=title, metadata={})

    def deleted(self) -> Json:
        return self.append("session.deleted", None)

    def answer(self, turn: str, *texts: str) -> None:
        """A whole turn of one part."""
        self.accepted(turn)
        self.started(turn)
        for number, text in enumerate(texts, 1):
            last: Json = {"last": True} if number == len(texts) else {}
            self.delta(turn, text, **last)
        self.done(turn)

    # --- reading --------------------------------------------------------------------------------------------------

    @property
    def head(self) -> int:
        return len(self.frames)

    def turn_at(self, seq: int) -> str | None:
        return self.frames[seq - 1].get("turn") if seq else None

    def cursor(self, seq: int | None = None) -> Json:
        place = self.head if seq is None else seq
        return {"gen": self.gen, "seq": place, "turn": self.turn_at(place)}

    def after(self, seq: int, until: int | None = None) -> list[Json]:
        return self.frames[seq : self.head if until is None else until]

    def opened(self, seq: int | None = None, mode: str = "replay", turns: int = 0, **more: Any) -> Json:
        return {
            "type": "session.opened",
            "session": self.session,
            **self.cursor(seq),
            "mode": mode,
            "turns": turns,
        } | more

    def snapshot(self, seq: int | None = None, history: int = 200, **more: Any) -> list[Json]:
        """session.opened and its turn.snapshots."""
        place = self.head if seq is None else seq
        turns = self._turns(place)
        finished = [name for name, turn in turns.items() if turn.terminal is not None]
        left_out = finished[: max(0, len(finished) - history)]
        shown = [self._shown(name, turn) for name, turn in turns.items() if name not in left_out]
        return [self.opened(place, "snapshot", len(shown), **more), *shown]

    def _shown(self, name: str, turn: _Turn) -> Json:
        accepted = turn.accepted
        frame: Json = {"type": "turn.snapshot", "session": self.session, "turn": name, "state": turn.state}
        names = ("parent", "again", "model", "author", "at", "input")
        frame.update((key, accepted[key]) for key in names if key in accepted)
        frame.update(parts=turn.parts, pending=turn.pending)
        if turn.terminal is not None:
            frame["terminal"] = turn.terminal
        return frame

    def _turns(self, seq: int) -> dict[str, _Turn]:
        turns: dict[str, _Turn] = {}
        for frame in self.frames[:seq]:
            name = frame.get("turn")
            kind = frame["type"]
            if kind == "turn.accepted":
                turns[frame["turn"]] = _Turn(frame, frame["state"])
            if name is None or name not in turns:
                continue
            turn = turns[name]
            if kind == "turn.started":
                turn.state = "running"
            elif kind == "turn.delta":
                _grow(turn.parts, frame)
            elif kind == "turn.asked":
                turn.state = "parked"
                turn.pending.append({key: frame[key] for key in ("request", "kind", "detail")})
            elif kind == "turn.responded":
                turn.pending = [ask for ask in turn.pending if ask["request"] != frame["request"]]
                turn.state = "parked" if turn.pending else "running"
            elif kind in ("turn.done", "turn.error"):
                turn.state, turn.terminal, turn.pending = kind.removeprefix("turn."), frame, []
        return turns

    def _summaries(self, turn: str) -> list[Json]:
        shown = self._turns(self.head).get(turn)
        summaries: list[Json] = []
        for part in [] if shown is None else shown.parts:
            text = part["text"].encode()
            numbers = {"bytes": len(text), "crc32": zlib.crc32(text)}
            summaries.append({"part": part["part"], "kind": part["kind"], **numbers})
        return summaries


def _grow(parts: list[Json], delta: Json) -> None:
    if delta["part"] == len(parts):
        parts.append({"part": delta["part"], "kind": delta["kind"], "text": "", "last": False})
        parts[-1].update((key, delta[key]) for key in ("call", "name") if key in delta)
    part = parts[delta["part"]]
    part["text"] += delta["text"]
    part["last"] = part["last"] or "last" in delta


def merged(frames: Sequence[Json], joins: Callable[[int], bool] = lambda _seq: True) -> list[Json]:
    """The same frames with adjacent deltas joined, where `joins` says so of the second one's seq."""
    out: list[Json] = []
    for frame in frames:
        newest = out[-1] if out else {"type": ""}
        same = all(newest.get(key) == frame.get(key) for key in ("type", "turn", "part"))
        if not same or frame["type"] != "turn.delta" or "last" in newest or not joins(frame["seq"]):
            out.append(frame)
            continue
        whole = {**newest, "seq": frame["seq"], "text": newest["text"] + frame["text"]}
        whole["first_seq"] = newest.get("first_seq", newest["seq"])
        if "last" in frame:
            whole["last"] = True
        out[-1] = whole
    return out


# --- connections ---------------------------------------------------------------------------------------------------


def hello(**more: Any) -> Json:
    return {"type": "hello", "id": "h", **more}


def welcome(**more: Any) -> Json:
    fields: Json = {"connection": "c1", "user": "ann", "features": [], "models": ["m"], "limits": LIMITS}
    return {"type": "welcome", "reply_to": "h", **fields, "ping_ms": 20_000, "terminal_within_ms": 15_000, **more}


def opens(session: str = "s", **more: Any) -> Json:
    return {"type": "session.open", "id": "o", "session": session, **more}


def creates(turn: str, session: str = "s", **more: Any) -> Json:
    fields: Json = {"session": session, "turn": turn, "input": [{"type": "text", "text": f"ask {turn}"}]}
    return {"type": "turn.create", "id": f"c-{turn}", **fields, **more}


def ack(reply_to: str, **fields: Any) -> Json:
    return {"type": "ack", "reply_to": reply_to, **fields}


def created(turn: str, seq: int, session: str = "s", **more: Any) -> Json:
    return ack(f"c-{turn}", session=session, turn=turn, seq=seq, duplicate=False) | more


def refusal(code: str, **fields: Any) -> Json:
    return {"type": "error", **fields, "error": error_body(code)}


def unopened(session: str = "s", **more: Any) -> Json:
    nothing: Json = {"gen": None, "seq": 0, "turn": None, "mode": "snapshot", "turns": 0}
    return {"type": "session.opened", "session": session, **nothing, **more}


Step = tuple[str, Any]
"""("client", frame), ("raw", message), ("server", frame), ("closed", code)."""


def client(*frames: Json) -> list[Step]:
    return [("client", frame) for frame in frames]


def server(*frames: Json) -> list[Step]:
    return [("server", frame) for frame in frames]


def greeted() -> list[Step]:
    return client(hello()) + server(welcome())


def play(steps: Iterable[Step], history: History | None = None) -> Verifier:
    """Show a conversation to a verifier. Raises RuleBroken."""
    verifier = Verifier(history)
    for kind, what in steps:
        if kind == "client":
            verifier.client_sent(what)
        elif kind == "raw":
            verifier.client_sent(raw=what)
        elif kind == "server":
            verifier.server_sent(what)
        else:
            verifier.closed(what)
    return verifier


def reading(log: Log, frames: Iterable[Json] | None = None) -> list[Step]:
    """A client that reads the log from its beginning; `frames` in place of the log's own."""
    start = opens(after={"gen": log.gen, "seq": 0, "turn": None})
    frames = log.frames if frames is None else frames
    return greeted() + client(start) + server(log.opened(0, reply_to="o"), *frames)
