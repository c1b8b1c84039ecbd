"""uvicorn's WebSocket protocol with what ASGI cannot express.

ASGI has no word for "drop this peer", for "is the buffer full" or for "these bytes are one frame for many viewers", and
uvicorn answers a missing pong with 1011. This class adds them and hands itself to the application in the scope's
extensions; the handshake, parsing and closing stay uvicorn's.
"""

from collections.abc import Sequence
from typing import Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

from turnwire_protocol.codes import CloseCode

EXTENSION: Final = "turnwire.connection"

OPCODE_TEXT: Final = 0x81
OPCODE_BINARY: Final = 0x82
"""First byte of a whole, unmasked message (RFC 6455 section 5.2)."""


class TurnwireProtocol(WebSocketsSansIOProtocol):
    """One WebSocket. Only its own event loop's thread may touch it."""

    async def run_asgi(self) -> None:
        extensions: dict[str, Any] = self.scope["extensions"]  # pyright: ignore[reportTypedDictNotRequiredAccess] - uvicorn sets it
        extensions[EXTENSION] = self
        await super().run_asgi()

    def write_messages(self, opcode: int, payloads: Sequence[bytes]) -> bool:
        """Send whole messages at once. False when the transport's buffer is over its high-water mark.

        Raises ConnectionError when the connection is closed or closing.
        """
        if self.disconnected or self.close_sent or self.conn.state is not State.OPEN:
            raise ConnectionError("the WebSocket is closed")
        parts: list[bytes] = []
        for payload in payloads:
            parts.append(frame_header(opcode, len(payload)))
            parts.append(payload)
        self.transport.write(b"".join(parts))
        return self.writable.is_set()

    async def drained(self) -> None:
        """Wait until the buffer is below its high-water mark, or the connection is lost."""
        await self.writable.wait()

    def abort(self) -> None:
        """Drop the transport with all that is buffered: closing in order would wait for a peer that does not read."""
        self.transport.abort()

    def keepalive_timeout(self) -> None:
        """No pong came: say so with our own code, then drop a peer that is most likely not there any more."""
        if not self.close_sent and not self.transport.is_closing():
            self.conn.fail(CloseCode.NO_PONG, "no pong")
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
        self.stop_keepalive()
        self.transport.abort()


def frame_header(opcode: int, length: int) -> bytes:
    """The header of an unmasked, unfragmented message (RFC 6455 section 5.2)."""
    if length < 126:
        return bytes((opcode, length))
    if length < 65_536:
        return bytes((opcode, 126)) + length.to_bytes(2, "big")
    return bytes((opcode, 127)) + length.to_bytes(8, "big")
