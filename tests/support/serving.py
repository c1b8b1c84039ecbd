"""An application served as Turnwire serves its own, in a thread of this process and on either event loop.

Tests talk to it with plain sockets, byte by byte; `inside` runs something in the server's loop.
"""

import asyncio
import base64
import os
import socket
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import uvicorn
import uvloop

from turnwire.transports.door import Door, DoorLimits
from turnwire.transports.uvicorn_http import TurnwireConfig
from turnwire.transports.uvicorn_protocol import TurnwireProtocol

Loop = Literal["asyncio", "uvloop"]
LOOPS: tuple[Loop, ...] = ("asyncio", "uvloop")
PATIENCE_S = 20

Result = TypeVar("Result")


class Served:
    """A running server. `door` is its own."""

    def __init__(self, port: int, door: Door, loop: asyncio.AbstractEventLoop) -> None:
        self.port = port
        self.door = door
        self._loop = loop

    def inside(self, call: Callable[[], Result]) -> Result:
        """Run in the server's loop; what it returns or raises."""
        found: Future[Result] = Future()

        def run() -> None:
            try:
                found.set_result(call())
            except BaseException as error:
                found.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return found.result(PATIENCE_S)

    def inside_are(self, count: int) -> None:
        """Return when the server has so many connections. Fails after a while."""
        until_s = time.monotonic() + PATIENCE_S
        while (found := self.inside(lambda: self.door.connections)) != count:
            assert time.monotonic() < until_s, f"{found} connections, not {count}, for {PATIENCE_S} s"
            time.sleep(0.003)

    def connect(self, *, receive_bytes: int | None = None) -> socket.socket:
        """A TCP connection; with a small receive buffer, a peer that soon holds up whoever sends to it."""
        raw = socket.socket()
        raw.settimeout(PATIENCE_S)
        if receive_bytes is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        raw.connect(("127.0.0.1", self.port))
        return raw

    def websocket(self, path: str = "/", headers: str = "", **options: Any) -> socket.socket:
        """A WebSocket whose handshake is done."""
        raw = self.connect(**options)
        raw.sendall(handshake(path, headers))
        head = read_head(raw)
        assert head.startswith(b"HTTP/1.1 101 "), head
        return raw


@contextmanager
def serving(app: Any, loop: Loop, limits: DoorLimits | None = None, **options: Any) -> Generator[Served]:
    """The server for the length of a context."""
    started: Future[Served] = Future()
    listening = socket.create_server(("127.0.0.1", 0))

    async def serve() -> None:
        door = Door(limits or DoorLimits())
        config = TurnwireConfig(app, door=door, ws=TurnwireProtocol, timeout_graceful_shutdown=1, **options)
        server = uvicorn.Server(config)
        server.capture_signals = _no_signals
        sweeping = asyncio.create_task(door.sweep_forever())
        task = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.005)
        loop_here = asyncio.get_running_loop()
        stop = asyncio.Event()
        stoppers.append(lambda: loop_here.call_soon_threadsafe(stop.set))
        started.set_result(Served(listening.getsockname()[1], door, loop_here))
        await stop.wait()
        server.should_exit = True
        await task
        sweeping.cancel()

    stoppers: list[Callable[[], Any]] = []
    run = asyncio.run if loop == "asyncio" else uvloop.run
    thread = threading.Thread(target=lambda: run(serve()))
    thread.start()
    try:
        yield started.result(PATIENCE_S)
    finally:
        for stop in stoppers:
            stop()
        thread.join(PATIENCE_S)
        listening.close()
        assert not thread.is_alive()


@contextmanager
def _no_signals() -> Generator[None]:
    yield


def handshake(path: str = "/", headers: str = "") -> bytes:
    """A WebSocket's request; `headers` are whole lines."""
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
    ).encode()


def client_frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """A frame as a client sends it (RFC 6455 section 5.2), masked with zeros."""
    first = (0x80 if fin else 0) | opcode
    if len(payload) < 126:
        head = bytes((first, 0x80 | len(payload)))
    elif len(payload) < 65_536:
        head = bytes((first, 0x80 | 126)) + len(payload).to_bytes(2, "big")
    else:
        head = bytes((first, 0x80 | 127)) + len(payload).to_bytes(8, "big")
    return head + bytes(4) + payload


def read_head(raw: socket.socket) -> bytes:
    """The head of an HTTP response, byte by byte, so that nothing behind it is taken."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = raw.recv(1)
        if not byte:
            break
        head += byte
    return head


def read_all(raw: socket.socket) -> bytes:
    """Everything up to the end of the connection, in whichever way it ends."""
    parts: list[bytes] = []
    try:
        while part := raw.recv(65_536):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


def close_code(said: bytes) -> int | None:
    """The code of the close frame that ends what a server said; None where there is none."""
    at = said.rfind(b"\x88")
    if at < 0 or at + 4 > len(said) or said[at + 1] + at + 2 != len(said):
        return None
    return int.from_bytes(said[at + 2 : at + 4], "big")
