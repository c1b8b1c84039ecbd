"""An attacker of a real server: volleys over sockets of its own, each to the end of its connection, and what came back.

A volley is what one connection sends. It ends in a close or in hanging up, so that the server always has a reason to
end the connection; one that does not end is a fault, and so is whatever a server says only when something broke in it.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.support.serving import client_frame, handshake
from turnwire_protocol.codec import CODECS

PATIENCE_S: Final = 30
LAST: Final = "the_last_of_this_volley"
TEXT, BINARY, CLOSE = 1, 2, 8

OWN_FAULTS: Final = frozenset([1011, 1012, 1013, 4500, 4501, 4503])
"""Closes that are the server's own doing. All others are for what its client did, or the client's own code, echoed."""


@dataclass(frozen=True, slots=True)
class Volley:
    """What one connection sends: with `codec` (a subprotocol) a handshake and, where there is one, a hello, whose
    welcome is waited for; then messages, then raw bytes. `cases` is how many hostile things that is.

    Behind its messages the server closes, or, where it is still open, answers a ping, so that all of them were read.
    """

    kind: str
    cases: int
    raw: bytes = b""
    codec: str | None = None
    hello: bytes = b""
    messages: Sequence[bytes] = ()
    is_open_behind: bool = False


@dataclass(slots=True)
class Seen:
    """What an attack met. `faults` has what must not be; `cases` by kind of volley."""

    cases: Counter[str] = field(default_factory=Counter[str])
    connections: int = 0
    closes: Counter[int | None] = field(default_factory=Counter[int | None])
    faults: list[str] = field(default_factory=list[str])

    @property
    def total(self) -> int:
        return self.cases.total()


class Attack:
    """Volleys against the port of a node, so many at a time."""

    def __init__(self, port: int) -> None:
        self.seen = Seen()
        self._port = port

    async def send_all(self, volleys: Iterable[Volley], *, at_once: int) -> None:
        waiting = iter(volleys)
        await asyncio.gather(*(self._send_some(waiting) for _ in range(at_once)))

    async def _send_some(self, waiting: Iterator[Volley]) -> None:
        for volley in waiting:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    said = await self.send(volley)
            except TimeoutError:
                self.seen.faults.append(f"no end within {PATIENCE_S} s: {volley}"[:500])
                continue
            self._judge(volley, said)

    async def send(self, volley: Volley) -> bytes:
        """All that is answered, behind the handshake if there is one."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            return await self._exchange(volley, reader, writer)
        except ConnectionError:
            return b""
        finally:
            writer.transport.abort()

    async def _exchange(self, volley: Volley, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        said = b""
        if volley.codec is not None:
            protocol = f"Sec-WebSocket-Protocol: {volley.codec}\r\n"
            writer.write(handshake("/v1/ws", protocol))
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 101 "):
                return head
            opcode = BINARY if volley.codec.endswith("msgpack") else TEXT
            if volley.hello:
                writer.write(client_frame(opcode, volley.hello))
                said = await reader.read(65_536)  # the welcome
            for message in volley.messages:
                writer.write(client_frame(opcode, message))
            if volley.is_open_behind:
                writer.write(client_frame(opcode, CODECS[volley.codec].encode({"type": "ping", "id": LAST})))
                while LAST.encode() not in said and (part := await reader.read(65_536)):
                    said += part
                writer.write(client_frame(CLOSE, b"\x03\xe8"))
        writer.write(volley.raw)
        if not volley.messages:
            writer.write_eof()
        return await _to_the_end(reader, said)

    def _judge(self, volley: Volley, said: bytes) -> None:
        seen = self.seen
        seen.cases[volley.kind] += volley.cases
        seen.connections += 1
        if volley.codec is None:
            if said.startswith(b"HTTP/1.1 5") and not said.startswith((b"HTTP/1.1 501 ", b"HTTP/1.1 505 ")):
                seen.faults.append(f"{said[:80]!r} to {volley}"[:500])
            return
        code = ended_with(said)
        seen.closes[code] += 1
        if code in OWN_FAULTS:
            seen.faults.append(f"closed with {code}: {volley}"[:500])
        if b'"code":"internal"' in said or b"\xa4code\xa8internal" in said:
            seen.faults.append(f"an internal error to {volley}"[:500])


async def _to_the_end(reader: asyncio.StreamReader, said: bytes) -> bytes:
    """What was said and what still comes, up to a close frame, which nobody answers, or to the end."""
    try:
        while ended_with(said) is None and (part := await reader.read(65_536)):
            said += part
    except ConnectionError:
        pass
    return said


def ended_with(said: bytes) -> int | None:
    """The code of the last close frame among a server's frames; None where there is none, 1005 where it has no code."""
    at, code = 0, None
    if said.startswith(b"HTTP/"):
        return None
    while at + 2 <= len(said):
        first, length = said[at], said[at + 1]
        start = at + 2
        if length == 126:
            length, start = int.from_bytes(said[at + 2 : at + 4], "big"), at + 4
        elif length == 127:
            length, start = int.from_bytes(said[at + 2 : at + 10], "big"), at + 10
        if first == 0x88:
            code = int.from_bytes(said[start : start + 2], "big") if length >= 2 else 1005
        at = start + length
    return code
