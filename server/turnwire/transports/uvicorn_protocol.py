"""uvicorn's WebSocket protocol with what ASGI cannot express, and with the bounds that it lacks.

ASGI has no word for "drop this peer", for "is the buffer full" or for "these bytes are one frame for many viewers", and
uvicorn answers a missing pong with 1011. This class adds them and hands itself to the application in the scope's
extensions; the handshake, parsing and closing stay uvicorn's.

The bounds are those of a frame's way in, where the application sees only whole messages:

* What comes is parsed in slices. One read may hold ten thousand tiny frames, which take tens of milliseconds; nobody
  else would be served meanwhile. A message that the application has not taken yet holds up the rest.
* A message has a limited number of fragments, empty ones included, and a limited time from its first byte to its last.
* Control frames have a rate. A peer that does not read is sent one pong for all its pings (RFC 6455 section 5.5.3).
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final, cast

import uvicorn
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.protocol import State

from turnwire.core.admission import Bucket
from turnwire.transports.door import Door
from turnwire.transports.uvicorn_http import TurnwireConfig
from turnwire_protocol.codes import CloseCode

EXTENSION: Final = "turnwire.connection"

OPCODE_TEXT: Final = 0x81
OPCODE_BINARY: Final = 0x82
"""First byte of a whole, unmasked message (RFC 6455 section 5.2)."""

SLICE_BYTES: Final = 4_096
SLICES_MS: Final = 5
"""Parsed in one go: slices for so long, then everybody else has a turn."""

FRAGMENTS_MAX: Final = 1_024
"""Of one message. No client that is known to us makes any; proxies may make one of each of their buffers."""

MESSAGE_MS: Final = 60_000
"""The largest message has a megabyte: less than 20 kB/s is no connection for it."""

NOT_UTF8: Final = 1_007
"""RFC 6455 section 8.1."""

CONTROLS_PER_S: Final = 50
CONTROLS_BURST: Final = 500


class TurnwireProtocol(WebSocketsSansIOProtocol):
    """One WebSocket. Only its own event loop's thread may touch it."""

    def __init__(self, config: uvicorn.Config, *arguments: Any, **options: Any) -> None:
        super().__init__(config, *arguments, **options)
        self._door: Door = cast("TurnwireConfig", config).door
        self._held = memoryview(b"")
        """What has been read but not parsed. While there is any, reading is paused."""
        self._turn: asyncio.Handle | None = None
        self._fragments = 0
        self._message_timer: asyncio.TimerHandle | None = None
        self._controls = Bucket.full(CONTROLS_PER_S, CONTROLS_BURST, self._now_ms())
        self._late_pong: bytes | None = None

    @property
    def address(self) -> str:
        """What the connection counts for at the door; "" where no address is known."""
        return self._door.address_of(self.transport)

    async def run_asgi(self) -> None:
        extensions: dict[str, Any] = self.scope["extensions"]  # pyright: ignore[reportTypedDictNotRequiredAccess] - uvicorn sets it
        extensions[EXTENSION] = self
        await super().run_asgi()

    # --- what the application may do besides -------------------------------------------------------------------------

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

    # --- what uvicorn's class is asked ------------------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.leave(self.transport)
        self._held = memoryview(b"")
        self._stop_message_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if len(data) <= SLICE_BYTES:
            super().data_received(data)
            self._watch_message()
        else:
            self._held = memoryview(data)
            self._parse_held()
        if not self.handshake_initiated and self.conn.handshake_exc is not None:
            # The parser has an answer to a request that is none, or too large, and uvicorn would wait for a better one.
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    async def receive(self) -> Any:
        message = await super().receive()
        self._hold()
        return message

    async def send(self, message: Any) -> None:
        if not self.handshake_complete and self.transport.is_closing():
            # The peer left amid the handshake: no fault of the application's, as uvicorn would log it.
            raise ClientDisconnected
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            self.handshake_complete = True  # by a refusal; uvicorn would log that nothing was answered
        self._hold()

    def handle_text(self, event: Frame) -> None:
        self._fragments = 0
        super().handle_text(event)

    def handle_bytes(self, event: Frame) -> None:
        self._fragments = 0
        super().handle_bytes(event)

    def handle_cont(self, event: Frame) -> None:
        self._fragments += 1
        if self._fragments >= FRAGMENTS_MAX:
            self._fail(CloseCode.TRANSPORT_TOO_LARGE, "too many fragments")
        else:
            super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        self._stop_message_timer()
        if self.curr_msg_data_type == "text" and not _is_text(self.frames):
            # uvicorn would log an exception for each, and raise another one behind the peer's close.
            self.frames = []
            self._fail(NOT_UTF8, "not UTF-8")
            return
        super().send_receive_event_to_app()

    def handle_ping(self) -> None:
        pongs = self.conn.data_to_send()
        if self._is_control_flood() or not pongs:  # the first of several pings has answered them all
            return
        if self.writable.is_set():
            self.transport.write(b"".join(pongs))
        else:
            self._late_pong = pongs[-1]

    def handle_pong(self, event: Frame) -> None:
        if not self._is_control_flood():
            super().handle_pong(event)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._late_pong is not None and not self.close_sent:
            self.transport.write(self._late_pong)
        self._late_pong = None

    def keepalive_timeout(self) -> None:
        """No pong came: the peer is most likely not there any more. If it is, it gets our own code."""
        self.stop_keepalive()
        self._fail(CloseCode.NO_PONG, "no pong")

    # --- within ---------------------------------------------------------------------------------------------------

    def _parse_held(self) -> None:
        """Parse slices of what was read, until a message has to be taken first or others have waited long enough."""
        until_s = self.loop.time() + SLICES_MS / 1000
        while self._held and not self.read_paused and not self.transport.is_closing():
            piece, self._held = self._held[:SLICE_BYTES], self._held[SLICE_BYTES:]
            super().data_received(bytes(piece))
            if self.loop.time() >= until_s:
                break
        self._watch_message()
        self._hold()

    def _hold(self) -> None:
        """Read no further while something is held; uvicorn resumes reading when a message was taken, and when the
        application closes. What is held is parsed when it is this connection's turn again."""
        if self._held and not self.transport.is_closing():
            self.transport.pause_reading()
            if self._turn is None and not self.read_paused:
                self._turn = self.loop.call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self._turn = None
        self._parse_held()
        if not self._held and not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def _watch_message(self) -> None:
        """Give a message that has begun until MESSAGE_MS after its first byte."""
        begun = self.conn.state is State.OPEN and (self.conn.current_size is not None or bool(self.conn.reader.buffer))
        if not begun:
            self._stop_message_timer()
        elif self._message_timer is None and not self.transport.is_closing():
            self._message_timer = self.loop.call_later(MESSAGE_MS / 1000, self._on_message_late)

    def _stop_message_timer(self) -> None:
        if self._message_timer is not None:
            self._message_timer.cancel()
            self._message_timer = None

    def _on_message_late(self) -> None:
        self._message_timer = None
        if self._held or self.read_paused:  # it may be here, and it is the application that takes its time
            self._watch_message()
        else:
            self._fail(CloseCode.TOO_SLOW, "a message took too long")

    def _is_control_flood(self) -> bool:
        """Whether there are too many control frames. Then the peer is dropped: it goes on whatever it is told."""
        if not self._controls.take(1, self._now_ms()):
            return False
        self.transport.abort()
        return True

    def _fail(self, code: int, reason: str) -> None:
        """Close for what the peer did on the transport's own level, where the application is not asked."""
        if self.close_sent or self.transport.is_closing():
            return
        self.conn.fail(code, reason)
        self.handle_parser_exception()

    def _now_ms(self) -> int:
        return int(self.loop.time() * 1000)


def _is_text(pieces: Sequence[bytes]) -> bool:
    """Whether a message's fragments are UTF-8 together."""
    try:
        (pieces[0] if len(pieces) == 1 else b"".join(pieces)).decode()
    except UnicodeDecodeError:
        return False
    return True


def frame_header(opcode: int, length: int) -> bytes:
    """The header of an unmasked, unfragmented message (RFC 6455 section 5.2)."""
    if length < 126:
        return bytes((opcode, length))
    if length < 65_536:
        return bytes((opcode, 126)) + length.to_bytes(2, "big")
    return bytes((opcode, 127)) + length.to_bytes(8, "big")
