"""The WebSocket endpoint /v1/ws: handshake, subprotocol and origin; the rest is the connection driver's.

A handshake is accepted before anything is refused, because a browser tells its page nothing of a refused one. The one
exception is a foreign Origin: such a page is to learn nothing at all.

A token may come in `hello`, in an Authorization header, or, from browsers that can set no header, as a subprotocol that
is offered but never selected. It may not come in the address, which proxies, browsers and logs keep.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, cast

from starlette.types import Receive, Scope, Send

from turnwire.core.connection import error_frame
from turnwire.runtime.connection_driver import ConnectionDriver
from turnwire.runtime.sender import Gone, Socket
from turnwire.transports.bearer import SUBPROTOCOL_PREFIX, bearer_token, offered_token
from turnwire.transports.uvicorn_protocol import EXTENSION, OPCODE_BINARY, OPCODE_TEXT, TurnwireProtocol
from turnwire_protocol.codec import CODECS, JSON, Codec
from turnwire_protocol.codes import CloseCode
from turnwire_protocol.events import Frame

SUBPROTOCOL_CHARS_MAX: Final = 128

WaitForTurn = Callable[[asyncio.Transport], Awaitable[int]]
"""Returns 0 when it is this handshake's turn, else in how many ms it could be."""

MakeDriver = Callable[[Socket, Codec, str | None, str], ConnectionDriver]
"""Of a socket, its encoding, the token that came with the handshake, and the address that it counts for."""
OriginCheck = Callable[[str | None, str | None], bool]
"""Whether a page of this Origin may connect to this Host."""


class WebSocketEndpoint:
    """An ASGI application for one path. `connections` holds the drivers of all open connections."""

    def __init__(self, make_driver: MakeDriver, permits: OriginCheck, wait_for_turn: WaitForTurn) -> None:
        self.connections: set[ConnectionDriver] = set()
        self._make_driver = make_driver
        self._wait_for_turn = wait_for_turn
        self._permits = permits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        if not self._permits(_header(scope, b"origin"), _header(scope, b"host")):
            await _refuse(send, 403, b"This origin may not connect.\n")
            return
        offered = [name for name in scope["subprotocols"] if not name.startswith(SUBPROTOCOL_PREFIX)]
        codec = next((CODECS[name] for name in offered if name in CODECS), None)
        if codec is None and offered:
            await _refuse_subprotocol(send, offered[0])
            return
        subprotocol = codec.subprotocol if codec else None
        if scope["query_string"]:
            await _close_with(send, subprotocol, CloseCode.UNAUTHENTICATED, error_frame("unauthenticated", _NO_QUERY))
            return
        protocol = cast("TurnwireProtocol", scope["extensions"][EXTENSION])
        if wait_ms := await self._wait_for_turn(protocol.transport):
            frame = error_frame("overloaded", _CROWDED, retry_after_ms=wait_ms)
            await _close_with(send, subprotocol, CloseCode.OVERLOADED, frame)
            return
        token = offered_token(scope["subprotocols"]) or bearer_token(_values(scope, b"authorization"))
        await send({"type": "websocket.accept", "subprotocol": subprotocol})
        wire = AsgiSocket(protocol, codec or JSON, receive, send)
        driver = self._make_driver(wire, codec or JSON, token, protocol.address)
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


_NO_QUERY: Final = (
    "The address of the socket takes no query: what stands there ends up in logs. Send the token in hello, in an "
    "Authorization header or as a subprotocol."
)


_CROWDED: Final = "Too many clients come at once; come back in a moment."


def _values(scope: Scope, name: bytes) -> list[str]:
    headers = cast("list[tuple[bytes, bytes]]", scope["headers"])
    return [value.decode("latin-1") for key, value in headers if key == name]


def _header(scope: Scope, name: bytes) -> str | None:
    values = _values(scope, name)
    # Two Origin headers are nobody's honest request: joined they match nothing.
    return ",".join(values) if values else None


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
    await _close_with(send, offered, CloseCode.UNSUPPORTED_VERSION, frame)


async def _close_with(send: Send, subprotocol: str | None, code: CloseCode, frame: Frame) -> None:
    """Accept, say why not, and close."""
    codec = CODECS.get(subprotocol or "", JSON)
    said = codec.encode(frame)
    await send({"type": "websocket.accept", "subprotocol": subprotocol})
    await send({"type": "websocket.send", **({"bytes": said} if codec.binary else {"text": said.decode()})})
    await send({"type": "websocket.close", "code": int(code)})
