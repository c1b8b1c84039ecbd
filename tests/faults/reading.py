"""What one client was sent, read by the client rule of docs/protocol.md, section 9, and by nothing of ours.

It is the oracle's eye, so it shares no code with the server or with our clients: frames as dicts go in, and what they
show goes to the ledger: ends of turns, turns that a snapshot lacks, and everything that may not be.
"""

import zlib
from dataclasses import dataclass, field
from typing import Any, Protocol

Frame = dict[str, Any]

TERMINALS = ("turn.done", "turn.error")


@dataclass
class Heard:
    """One turn as it has been shown: the pieces of each part, and its terminal."""

    pieces: dict[int, list[str]] = field(default_factory=dict[int, list[str]])
    terminal: Frame | None = None

    def take(self, piece: Frame) -> None:
        self.pieces.setdefault(piece["part"], []).append(piece["text"])

    def texts(self) -> dict[int, str]:
        return {part: "".join(pieces) for part, pieces in sorted(self.pieces.items())}

    @property
    def text(self) -> str:
        return "".join(self.texts().values())


class Sink(Protocol):
    """Told what a reading shows. `gen` is the history in which it stands."""

    def fault(self, kind: str, what: str) -> None: ...

    def shown(self, client: str, turn: str) -> None:
        """A turn has come into this client's view."""
        ...

    def stands(self, session: str, gen: str, frame: Frame) -> None:
        """A numbered frame, in its place."""
        ...

    def ended(self, client: str, session: str, gen: str, turn: str, heard: Heard) -> None:
        """A terminal that this client was shown."""
        ...

    def lacks(self, client: str, session: str, gen: str | None, turn: str, heard: Heard) -> None:
        """A snapshot has nothing of a turn that this client knows. (`store_lost`, where it had not ended.)"""
        ...


@dataclass
class _Place:
    """A client's cursor on a session, and what it has of it."""

    gen: str | None = None
    seq: int = 0
    turns: dict[str, Heard] = field(default_factory=dict[str, Heard])
    waiting_for: str | None = None
    """The id of an open without its answer: until then nothing counts."""
    opened: Frame | None = None
    """Of a snapshot that is not whole yet."""
    staged: dict[str, Heard] = field(default_factory=dict[str, Heard])
    left: int = 0


class Reading:
    """One client. Both directions' frames go in, in their order; `connected` says that a new connection begins."""

    def __init__(self, client: str, sink: Sink) -> None:
        self.client = client
        self._sink = sink
        self._places: dict[str, _Place] = {}

    def heard(self, session: str, turn: str) -> Heard | None:
        place = self._places.get(session)
        return None if place is None else place.turns.get(turn)

    def at_rest(self, session: str) -> bool:
        """Whether no open is under way."""
        place = self._places.get(session)
        return place is None or (place.waiting_for is None and place.opened is None)

    def connected(self) -> None:
        for place in self._places.values():
            place.waiting_for = "an open that is still to be sent"
            place.opened = None

    def sent(self, frame: Frame) -> None:
        if frame["type"] == "session.open":
            place = self._places.setdefault(frame["session"], _Place())
            place.waiting_for, place.opened = frame["id"], None

    def received(self, frame: Frame) -> None:
        place = self._places.get(frame.get("session", ""))
        if place is None or frame["type"] in ("ack", "error"):
            return
        if frame["type"] == "session.opened":
            # One that nobody asked for has no reply_to, and counts while none is awaited.
            if frame.get("reply_to") == place.waiting_for:
                place.waiting_for = None
                self._opened(place, frame)
        elif place.waiting_for is None:
            if frame["type"] == "turn.snapshot":
                self._snapshot(place, frame)
            else:
                self._numbered(place, frame)

    # --- within -----------------------------------------------------------------------------------------------------

    def _fault(self, kind: str, frame: Frame, place: _Place) -> None:
        where = f"{frame['session']} gen {place.gen} seq {place.seq}"
        said = {name: value for name, value in frame.items() if name not in ("text", "input", "parts")}
        self._sink.fault(kind, f"{self.client} at {where}: {said}")

    def _opened(self, place: _Place, frame: Frame) -> None:
        place.opened = None
        if frame["mode"] == "replay":
            if (frame["gen"], frame["seq"]) != (place.gen, place.seq):
                self._fault("replay from another place", frame, place)
            return
        if frame["gen"] == place.gen and frame["seq"] < place.seq:
            self._fault("snapshot from the past", frame, place)
        place.opened, place.staged, place.left = frame, {}, frame["turns"]
        if not place.left:
            self._adopt(place)

    def _snapshot(self, place: _Place, frame: Frame) -> None:
        if place.opened is None:
            self._fault("snapshot out of place", frame, place)
            return
        heard = place.staged.setdefault(frame["turn"], Heard())
        for piece in frame["parts"]:
            heard.take(piece)
        heard.terminal = frame.get("terminal")
        place.left -= 1
        if not place.left:
            self._adopt(place)

    def _adopt(self, place: _Place) -> None:
        opened = place.opened
        assert opened is not None
        before, place.turns = place.turns, place.staged
        place.gen, place.seq, place.opened = opened["gen"], opened["seq"], None
        for turn, heard in place.turns.items():
            self._sink.shown(self.client, turn)
            if heard.terminal is not None:
                self._end(place, opened["session"], turn)
        for turn in before.keys() - place.turns.keys():
            self._sink.lacks(self.client, opened["session"], place.gen, turn, before[turn])

    def _numbered(self, place: _Place, frame: Frame) -> None:
        if place.gen is None or place.opened is not None:
            self._fault("frame out of place", frame, place)
            return
        if frame.get("first_seq", frame["seq"]) != place.seq + 1:
            self._fault("hole" if frame["seq"] > place.seq else "frame twice", frame, place)
        place.seq = frame["seq"]
        self._sink.stands(frame["session"], place.gen, frame)
        turn = frame.get("turn")
        if turn is None:
            return
        if turn not in place.turns:
            self._sink.shown(self.client, turn)
        heard = place.turns.setdefault(turn, Heard())
        if heard.terminal is not None:
            self._fault("frame behind its terminal", frame, place)
        if frame["type"] == "turn.delta":
            heard.take(frame)
        elif frame["type"] in TERMINALS:
            heard.terminal = frame
            self._end(place, frame["session"], turn)

    def _end(self, place: _Place, session: str, turn: str) -> None:
        heard = place.turns[turn]
        assert heard.terminal is not None and place.gen is not None
        told = {part["part"]: (part["bytes"], part["crc32"]) for part in heard.terminal["parts"]}
        shown = {part: text.encode() for part, text in heard.texts().items()}
        if told != {part: (len(data), zlib.crc32(data)) for part, data in shown.items()}:
            self._fault("checksum", {**heard.terminal, "session": session}, place)
        self._sink.ended(self.client, session, place.gen, turn, heard)
