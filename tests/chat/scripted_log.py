"""A session's log as a server would tell it, in a few lines: what the client's transcript is tested against.

It keeps every history that ever was, so that a test can tell whether what a client shows is a piece of one of them.
"""

import zlib
from typing import Any

Frame = dict[str, Any]


class ScriptedLog:
    """Append with `accept`, `delta`, `end`; `lose` forgets the newest entries, as a store that failed over does."""

    def __init__(self, session: str = "s") -> None:
        self.session = session
        self.generation = 1
        self.frames: list[Frame] = []
        self.histories: dict[str, dict[tuple[str, int], str]] = {}
        """gen -> turn and part -> its whole text so far."""

    @property
    def gen(self) -> str:
        return f"g{self.generation}"

    def append(self, type_: str, turn: str | None, **fields: Any) -> Frame:
        place = {} if turn is None else {"turn": turn}
        frame = {"type": type_, "session": self.session, **place, "seq": len(self.frames) + 1, "at": 1, **fields}
        self.frames.append(frame)
        self._remember()
        return frame

    def accept(self, turn: str, text: str = "hello") -> Frame:
        fields: Frame = {"parent": None, "model": "demo", "author": "anonymous", "state": "running"}
        return self.append("turn.accepted", turn, input=[{"type": "text", "text": text}], **fields)

    def delta(self, turn: str, text: str, part: int = 0, kind: str = "text", **fields: Any) -> Frame:
        return self.append("turn.delta", turn, part=part, kind=kind, text=text, **fields)

    def end(self, turn: str, **fields: Any) -> Frame:
        usage = {"input_tokens": 1, "output_tokens": 1, "estimated": True}
        done: Frame = {"finish_reason": "stop", "usage": usage, "model": "demo", "attempts": 1}
        done |= {"first_token_ms": 1, "duration_ms": 1, "parts": self.summaries(turn)}
        return self.append("turn.done", turn, **(done | fields))

    def fail(self, turn: str, code: str = "node_lost", retry: str = "new_turn") -> Frame:
        error = {"code": code, "message": "It failed.", "retry": retry}
        parts = self.summaries(turn)
        return self.append("turn.error", turn, error=error, partial=bool(parts), parts=parts)

    def lose(self, entries: int) -> None:
        """The newest entries never were; what follows is another generation."""
        del self.frames[max(0, len(self.frames) - entries) :]
        self.generation += 1
        self._remember()

    def _remember(self) -> None:
        history = self.histories.setdefault(self.gen, {})
        for turn in self.turns():
            history.update({(turn, number): part["text"] for number, part in self.parts(turn).items()})

    # --- what a server answers -------------------------------------------------------------------------------------

    def turns(self) -> list[str]:
        return [frame["turn"] for frame in self.frames if frame["type"] == "turn.accepted"]

    def open_turns(self) -> list[str]:
        ended = {frame["turn"] for frame in self.frames if frame["type"] in ("turn.done", "turn.error")}
        return [turn for turn in self.turns() if turn not in ended]

    def parts(self, turn: str) -> dict[int, Frame]:
        parts: dict[int, Frame] = {}
        for frame in self.frames:
            if frame["type"] == "turn.delta" and frame["turn"] == turn:
                empty = {"part": frame["part"], "kind": frame["kind"], "text": "", "last": False}
                part = parts.setdefault(frame["part"], empty)
                part["text"] += frame["text"]
                part["last"] = frame.get("last", False)
        return parts

    def summaries(self, turn: str) -> list[Frame]:
        return [
            {
                "part": number,
                "kind": part["kind"],
                "bytes": len(part["text"].encode()),
                "crc32": zlib.crc32(part["text"].encode()),
            }
            for number, part in self.parts(turn).items()
        ]

    def opened(self, mode: str, turns: int, reply_to: str | None, seq: int | None = None) -> Frame:
        seq = len(self.frames) if seq is None else seq
        place = {"seq": seq, "turn": self.frames[seq - 1].get("turn") if seq else None}
        answer = {} if reply_to is None else {"reply_to": reply_to}
        gen = self.gen if self.frames or self.generation > 1 else None
        return {
            "type": "session.opened",
            "session": self.session,
            "gen": gen,
            **place,
            "mode": mode,
            "turns": turns,
        } | answer

    def snapshot(self, reply_to: str | None = None, history: int = 20, pieces: int = 1) -> list[Frame]:
        """session.opened and its turn.snapshot frames; with `pieces` > 1 the turns' texts are told in that many."""
        wanted = [turn for turn in self.turns() if turn in self.open_turns() or turn in self.turns()[-history:]]
        frames = [frame for turn in wanted for frame in self.turn_snapshot(turn, pieces)]
        return [self.opened("snapshot", len(frames), reply_to), *frames]

    def turn_snapshot(self, turn: str, pieces: int) -> list[Frame]:
        accepted = next(frame for frame in self.frames if frame["type"] == "turn.accepted" and frame["turn"] == turn)
        terminal = next(
            (f for f in self.frames if f["type"] in ("turn.done", "turn.error") and f["turn"] == turn), None
        )
        state = "running" if terminal is None else "done" if terminal["type"] == "turn.done" else "error"
        base = {"type": "turn.snapshot", "session": self.session, "turn": turn, "state": state, "pending": []}
        base |= {name: accepted[name] for name in ("parent", "model", "author", "at")}
        cut: list[list[Frame]] = [[] for _ in range(pieces)]
        for part in self.parts(turn).values():
            step = len(part["text"]) // pieces + 1
            for number in range(pieces):
                cut[number].append({**part, "text": part["text"][number * step : (number + 1) * step]})
        frames = [
            {**base, "input": accepted["input"] if not number else [], "parts": cut[number]} for number in range(pieces)
        ]
        for frame in frames[1:]:
            frame["continued"] = True
        if terminal is not None:
            frames[-1]["terminal"] = terminal
        return frames

    def answer(self, opening: Frame, pieces: int = 1) -> list[Frame]:
        """What follows a session.open, up to the log's head."""
        after = opening.get("after")
        if after is not None and after["gen"] == self.gen and after["seq"] <= len(self.frames):
            at = self.frames[after["seq"] - 1].get("turn") if after["seq"] else None
            if at == after["turn"]:
                opened = self.opened("replay", 0, opening["id"], after["seq"])
                return [opened, *merged(self.frames[after["seq"] :])]
        return self.snapshot(opening["id"], opening["history"], pieces)


def merged(frames: list[Frame]) -> list[Frame]:
    """Adjacent deltas of one part become one."""
    result: list[Frame] = []
    for frame in frames:
        before = result[-1] if result else None
        same = before is not None and frame["type"] == before["type"] == "turn.delta"
        if before is not None and same and (before["turn"], before["part"]) == (frame["turn"], frame["part"]):
            first = {"first_seq": before.get("first_seq", before["seq"]), "text": before["text"] + frame["text"]}
            result[-1] = {**frame, **first}
        else:
            result.append(frame)
    return result
