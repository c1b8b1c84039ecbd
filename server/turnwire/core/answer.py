"""The answer of one turn as it grows: its parts, their lengths and checksums.

Built from the very deltas that go into the log, by the writer as it writes and by whoever takes a turn over from the
log, so that both say the same of it.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from turnwire.core.entries import Delta
from turnwire_protocol.values import Kind


@dataclass(slots=True)
class _Part:
    kind: Kind
    call: str | None
    name: str | None
    texts: list[str] = field(default_factory=list[str])
    bytes: int = 0
    crc32: int = 0
    last: bool = False
    opaque: str | None = None


class Answer:
    """All parts of one turn, numbered from 0 in the order of their first delta."""

    def __init__(self) -> None:
        self._parts: dict[int, _Part] = {}
        self.bytes = 0
        """Of all parts together, in UTF-8, opaque state included."""

    def add(self, delta: Delta) -> None:
        part = self._parts.get(delta.part)
        if part is None:
            part = self._parts[delta.part] = _Part(delta.kind, delta.call, delta.name)
        encoded = delta.text.encode()
        part.texts.append(delta.text)
        part.bytes += len(encoded)
        part.crc32 = zlib.crc32(encoded, part.crc32)
        part.last = delta.last
        self.bytes += len(encoded)
        if delta.opaque is not None:
            part.opaque = delta.opaque
            self.bytes += len(delta.opaque.encode())

    def add_all(self, deltas: Iterable[Delta]) -> None:
        for delta in deltas:
            self.add(delta)

    @property
    def parts_count(self) -> int:
        return len(self._parts)

    @property
    def empty(self) -> bool:
        """Whether nothing of an answer was ever emitted."""
        return not self._parts

    def open_parts(self) -> list[tuple[int, Kind]]:
        """Parts that have not had their last delta."""
        return [(number, part.kind) for number, part in self._parts.items() if not part.last]

    def summaries(self) -> list[dict[str, Any]]:
        """`parts` of a terminal: number, kind, length and CRC-32 of each."""
        return [
            {"part": number, "kind": part.kind, "bytes": part.bytes, "crc32": part.crc32}
            for number, part in self._parts.items()
        ]

    def as_parts(self) -> list[dict[str, Any]]:
        """The parts as values.Part: for snapshots, final records and later contexts."""
        return [_as_part(number, part) for number, part in self._parts.items()]

    def opaque(self) -> dict[int, str]:
        """What providers want back, by part. Apart from the parts, because those are shown to clients."""
        return {number: part.opaque for number, part in self._parts.items() if part.opaque is not None}


def _as_part(number: int, part: _Part) -> dict[str, Any]:
    value: dict[str, Any] = {"part": number, "kind": part.kind, "text": "".join(part.texts)}
    if part.call is not None:
        value["call"] = part.call
    if part.name is not None:
        value["name"] = part.name
    value["last"] = part.last
    return value
