"""One turn and its parts, as a client builds them from frames. Pure; transcript.py decides which frames count."""

import zlib
from dataclasses import dataclass, field
from typing import Any, Final, Self

from turnwire_protocol.events import TERMINAL_TYPES, Frame


@dataclass(frozen=True, slots=True)
class Fault:
    """What went wrong with a turn or a command, safe to show. `retry` is the protocol's advice."""

    code: str
    message: str
    retry: str
    retry_after_ms: int | None = None

    @classmethod
    def from_body(cls, body: Frame) -> Self:
        """From the `error` field of a frame. A code that is newer than this client is kept as it is."""
        return cls(str(body["code"]), str(body["message"]), str(body["retry"]), body.get("retry_after_ms"))


LOST: Final = Fault("store_lost", "The server has lost this answer.", "new_turn")
GONE: Final = Fault("not_found", "This answer ended while the client was away, and lies further back.", "none")


@dataclass(slots=True)
class Part:
    """One strand of an answer. `text` grows until `last`."""

    part: int
    kind: str
    call: str | None = None
    name: str | None = None
    last: bool = False
    bytes: int = 0
    crc32: int = 0
    chars: int = 0
    _pieces: list[str] = field(default_factory=list[str])

    def add(self, text: str, last: bool) -> None:
        encoded = text.encode()
        self.bytes += len(encoded)
        self.crc32 = zlib.crc32(encoded, self.crc32)
        self.chars += len(text)
        self.last = last
        self._pieces.append(text)

    @property
    def text(self) -> str:
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""


@dataclass(slots=True)
class Turn:
    """One input and its answer. It has ended when it has a terminal, or when it is known to be lost (`fault`)."""

    session: str
    id: str
    state: str
    parent: str | None
    again: str | None
    model: str
    author: str
    at: int
    input: list[dict[str, Any]]
    parts: dict[int, Part] = field(default_factory=dict[int, Part])
    asks: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    cancelling: bool = False
    retrying: Frame | None = None
    """The turn.retrying that nothing has followed yet."""
    terminal: Frame | None = None
    fault: Fault | None = None

    @classmethod
    def from_accepted(cls, frame: Frame) -> Self:
        return cls._from(frame["session"], frame, "running" if frame["state"] == "running" else "queued")

    @classmethod
    def from_snapshot(cls, session: str, frame: Frame) -> Self:
        turn = cls._from(session, frame, str(frame["state"]))
        turn.input = []
        turn.extend_snapshot(frame)
        return turn

    @classmethod
    def _from(cls, session: str, frame: Frame, state: str) -> Self:
        return cls(
            session,
            str(frame["turn"]),
            state,
            frame["parent"],
            frame.get("again"),
            str(frame["model"]),
            str(frame["author"]),
            int(frame["at"]),
            list(frame["input"]),
        )

    @property
    def ended(self) -> bool:
        return self.terminal is not None or self.fault is not None

    @property
    def text(self) -> str:
        """The answer: its text and refusals, without reasoning and tool calls."""
        return "".join(part.text for part in self.parts.values() if part.kind in ("text", "refusal"))

    @property
    def question(self) -> str:
        return "".join(str(part["text"]) for part in self.input if part["type"] == "text")

    def extend_snapshot(self, frame: Frame) -> None:
        """A turn.snapshot, or the next piece of one: texts of one part are joined."""
        self.input.extend(frame["input"])
        for piece in frame["parts"]:
            self._part(piece).add(piece["text"], bool(piece.get("last")))
        self.asks = {str(ask["request"]): ask for ask in frame["pending"]}
        terminal = frame.get("terminal")
        if terminal is not None:
            self._end(terminal)

    def apply(self, frame: Frame) -> None:
        """A numbered frame of this turn, in its place."""
        self.retrying = frame if frame["type"] == "turn.retrying" else None
        match frame["type"]:
            case "turn.delta":
                self._part(frame).add(frame["text"], bool(frame.get("last")))
            case "turn.started":
                self.state = "running"
            case "turn.asked":
                self.asks[str(frame["request"])] = frame
                self.state = "parked"
            case "turn.responded":
                self.asks.pop(str(frame["request"]), None)
                self.state = "parked" if self.asks else "running"
            case "turn.cancelling":
                self.cancelling = True
            case kind if kind in TERMINAL_TYPES:
                self._end(frame)
            case _:
                pass  # newer than this client; its seq is counted all the same

    def proved_by(self, terminal: Frame) -> bool:
        """Whether the terminal names exactly the parts that are here, each with its length and CRC-32."""
        told = {int(part["part"]): (part["bytes"], part["crc32"]) for part in terminal["parts"]}
        have = {part.part: (part.bytes, part.crc32) for part in self.parts.values()}
        empty = (0, 0)
        return all(told.get(number, empty) == have.get(number, empty) for number in told.keys() | have.keys())

    def lose(self, why: Fault) -> None:
        """There will be no terminal."""
        self.fault = why
        self.state = "error"
        self.asks = {}

    def _part(self, piece: Frame) -> Part:
        number = int(piece["part"])
        part = self.parts.get(number)
        if part is None:
            part = self.parts[number] = Part(number, str(piece["kind"]), piece.get("call"), piece.get("name"))
        return part

    def _end(self, terminal: Frame) -> None:
        self.terminal = terminal
        self.state = "done" if terminal["type"] == "turn.done" else "error"
        self.asks = {}
        if terminal["type"] == "turn.error":
            self.fault = Fault.from_body(terminal["error"])
