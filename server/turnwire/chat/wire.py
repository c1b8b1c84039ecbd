"""One WebSocket to a Turnwire server: frames in, frames out, and a plain sentence when there is none."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from turnwire_protocol.codec import Codec, FrameRefused
from turnwire_protocol.events import Frame
from turnwire_protocol.limits import COMMAND_BYTES_MAX

ENDPOINT: Final = "/v1/ws"
OPEN_S: Final = 10
SEND_S: Final = 10
CLOSE_S: Final = 3
PONG_MS: Final = 3_000
FRAME_BYTES_MAX: Final = 2 * COMMAND_BYTES_MAX
ABNORMAL: Final = 1006
"""RFC 6455 section 7.1.5: the connection ended without a close frame."""

_SCHEMES: Final = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}

OnFrame = Callable[[Literal["client", "server"], Frame], None]
Backoff = Callable[[int], float]
"""Seconds to wait before the next try, from the number of tries that failed since the last good connection."""


@dataclass(frozen=True, slots=True)
class FullJitter:
    """Any time up to a bound that doubles: clients that were cut off together do not come back together."""

    base_s: float = 0.25
    cap_s: float = 10.0

    def __call__(self, tries: int) -> float:
        return random.random() * min(self.cap_s, self.base_s * 2 ** min(tries, 16))  # noqa: S311 - a jitter is no secret


class Unreachable(Exception):
    """There is no Turnwire server at the address, as a sentence."""


class WireLost(Exception):
    """The connection is over. `code` is the WebSocket close code, 1006 when there was none."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def endpoint_of(address: str) -> str:
    """The WebSocket endpoint that an address means: a URL with ws, wss, http or https, or just host:port.

    Raises Unreachable when it means none.
    """
    try:
        parts = urlsplit(address if "://" in address else f"ws://{address}")
        known = parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, or half an IPv6 address
        parts, known = urlsplit(""), False
    if not known:
        raise Unreachable(f"{address} is no address of a server; one looks like ws://127.0.0.1:8000{ENDPOINT}.")
    path = parts.path if parts.path.strip("/") else ENDPOINT
    return urlunsplit((_SCHEMES[parts.scheme], parts.netloc, path, parts.query, ""))


class Wire:
    """An open WebSocket whose subprotocol is agreed. Everything raises WireLost once it is over."""

    def __init__(self, socket: ClientConnection, codec: Codec, on_frame: OnFrame) -> None:
        self._socket = socket
        self._codec = codec
        self._on_frame = on_frame

    @classmethod
    async def dial(cls, url: str, codec: Codec, on_frame: OnFrame) -> Self:
        """`on_frame` sees every frame before it is sent and after it came. Raises Unreachable."""
        wanted = Subprotocol(codec.subprotocol)
        try:
            socket = await connect(
                url,
                subprotocols=[wanted],
                compression=None,
                max_size=FRAME_BYTES_MAX,
                ping_interval=None,  # the protocol has a ping of its own, which an application can see
                open_timeout=OPEN_S,
                close_timeout=CLOSE_S,
                proxy=None if _is_loopback(url) else True,
            )
        except UnicodeError as error:  # a name that DNS cannot hold
            raise Unreachable(f"{url} is no address of a server: {error}.") from error
        except (OSError, InvalidHandshake, InvalidURI, ConnectionClosed) as error:
            raise Unreachable(_sentence(url, error)) from error
        if socket.subprotocol != wanted:
            socket.transport.abort()
            raise Unreachable(f"{url} speaks WebSocket, but not {wanted}: it is no Turnwire server of this version.")
        return cls(socket, codec, on_frame)

    async def send(self, frame: Frame) -> None:
        self._on_frame("client", frame)
        data = self._codec.encode(frame)
        try:
            async with asyncio.timeout(SEND_S):
                await self._socket.send(data, text=not self._codec.binary)
        except TimeoutError:
            raise self._dropped("The server does not read.") from None
        except ConnectionClosed:
            raise self._lost() from None

    async def receive(self, silence_ms: int) -> Frame:
        """The next frame. After so long a silence the server is asked whether it is there, and then given up."""
        try:
            async with asyncio.timeout(silence_ms / 1000):
                return await self._receive()
        except TimeoutError:
            await self.send({"type": "ping"})
        try:
            async with asyncio.timeout(PONG_MS / 1000):
                return await self._receive()
        except TimeoutError:
            raise self._dropped("The server does not answer any more.") from None

    async def _receive(self) -> Frame:
        try:
            frame = self._codec.decode_object(await self._socket.recv(), FRAME_BYTES_MAX)
        except ConnectionClosed:
            raise self._lost() from None
        except FrameRefused as refusal:
            raise self._dropped(f"The server sent something unreadable: {refusal.message}.") from None
        self._on_frame("server", frame)
        return frame

    def abort(self) -> None:
        """Cut the transport, without a word to the other side."""
        self._socket.transport.abort()

    async def close(self) -> None:
        """End in order, within a few seconds."""
        await self._socket.close()

    def _lost(self) -> WireLost:
        code = self._socket.close_code or ABNORMAL
        return WireLost(code, self._socket.close_reason or f"The connection was closed ({code}).")

    def _dropped(self, reason: str) -> WireLost:
        self.abort()
        return WireLost(ABNORMAL, reason)


def _is_loopback(url: str) -> bool:
    """Whoever has a proxy for the web does not mean it for their own machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _sentence(url: str, error: Exception) -> str:
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        why = " It does not let this client in." if status in (401, 403) else " Is it a Turnwire server?"
        return f"{url} answered with HTTP status {status} instead of a WebSocket.{why}"
    if isinstance(error, InvalidHandshake | InvalidURI):
        return f"Something answers at {url}, but it is no Turnwire server."
    if isinstance(error, TimeoutError):
        return f"{url} did not answer within {OPEN_S} s."
    # asyncio joins the failures of several addresses into one text.
    refused = isinstance(error, ConnectionRefusedError) or "Connect call failed" in str(error)
    why = "connection refused" if refused else getattr(error, "strerror", None) or str(error)
    return f"Nobody answers at {url} ({why})."
