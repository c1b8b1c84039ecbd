"""The WebSocket endpoint /v1/ws: handshake, subprotocol and origin; the rest is the connection driver's.

A handshake is accepted before anything is refused, because a browser tells its page nothing of a refused one. The one
exception is a foreign Origin: such a page is to learn nothing at all.
"""

from collections.abc import Callable, Sequence
from typing import Final, cast

from starlette.types import Receive, Scope, Send

from turnwire.core.connection import error_frame
from turnwire.runtime.connection_driver import ConnectionDriver
from turnwire.runtime.sender import Gone, Socket
from turnwire.transports.uvicorn_protocol import EXTENSION, OPCODE_BINARY, OPCODE_TEXT, TurnwireProtocol
from turnwire_protocol.codec import CODECS, JSON, Codec
from turnwire_protocol.codes import CloseCode

SUBPROTOCOL_CHARS_MAX: Final = 128

MakeDriver = Callable[[Socket, Codec], ConnectionDriver]
OriginCheck = Callable[[str | None, str | None], bool]
"""Whether a page of this Origin may connect to this Host."""


class WebSocketEndpoint:
    """An ASGI application for one path. `connections` holds the drivers of all open connections."""

    def __init__(self, make_driver: MakeDriver, permits: OriginCheck) -> None:
        self.connections: set[ConnectionDriver] = set()
        self._make_driver = make_driver
        self._permits = permits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        if not self._permits(_header(scope, b"origin"), _header(scope, b"host")):
            await _refuse(send, 403, b"This origin may not connect.\n")
            return
        offered: list[str] = scope["subprotocols"]
        codec = next((CODECS[name] for name in offered if name in CODECS), None)
        if codec is None and offered:
            await _refuse_subprotocol(send, offered[0])
            return
        await send({"type": "websocket.accept", "subprotocol": codec.subprotocol if codec else None})
        protocol = cast("TurnwireProtocol", scope["extensions"][EXTENSION])
        driver = self._make_driver(AsgiSocket(protocol, codec or JSON, receive, send), codec or JSON)
        self.connections.add(driver)
        try:
            await driver.run()
        finally:
            self.connections.discard(driver)


class AsgiSocket:
    """runtime.sender.Socket over ASGI's receive and our own way to write."""

    def __init__(self, protocol: TurnwireProtocol, codec: Codec, receive: Receive, send: Send) -> None:
        self._protocol = protocol
        self._opcode = OPCODE_BINARY if codec.binary else OPCODE_TEXT
        self._receive = receive
        self._send = send

    async def receive(self) -> str | bytes:
        message = await self._receive()
        if message["type"] != "websocket.receive":
            raise Gone
        text: str | None = message.get("text")
        return text if text is not None else cast("bytes", message["bytes"])

    def write(self, messages: Sequence[bytes]) -> bool:
        try:
            return self._protocol.write_messages(self._opcode, messages)
        except ConnectionError:
            raise Gone from None

    async def drained(self) -> None:
        await self._protocol.drained()

    async def close(self, code: int) -> None:
        # uvicorn answers RuntimeError or ClientDisconnected (an OSError) when the peer was faster.
        try:
            await self._send({"type": "websocket.close", "code": int(code)})
        except (OSError, RuntimeError):
            raise Gone from None

    def abort(self) -> None:
        self._protocol.abort()


def _header(scope: Scope, name: bytes) -> str | None:
    values = [value for key, value in cast("list[tuple[bytes, bytes]]", scope["headers"]) if key == name]
    # Two Origin headers are nobody's honest request: joined they match nothing.
    return b",".join(values).decode("latin-1") if values else None


async def _refuse(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})


async def _refuse_subprotocol(send: Send, offered: str) -> None:
    """Select what was offered, so that the browser lets its page see the reason, then say that we do not speak it."""
    fit = len(offered) <= SUBPROTOCOL_CHARS_MAX and offered.isascii() and offered.isprintable()
    if not fit:
        await _refuse(send, 400, b"Unreadable Sec-WebSocket-Protocol.\n")
        return
    known = ", ".join(CODECS)
    frame = error_frame("unsupported", f"This server speaks {known}.")
    await send({"type": "websocket.accept", "subprotocol": offered})
    await send({"type": "websocket.send", "text": JSON.encode(frame).decode()})
    await send({"type": "websocket.close", "code": int(CloseCode.UNSUPPORTED_VERSION)})
