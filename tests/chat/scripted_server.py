"""A server that does exactly what a test says: it accepts WebSockets, keeps what comes in and sends what it is told.

async with ScriptedServer.started() as server:
    peer = await server.accepted()          # the next connection
    hello = await peer.expect("hello")      # its next frame of this type; the ones before are kept
    await peer.say({"type": "welcome", ...})
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from turnwire_protocol.codec import CODECS, JSON, Codec

Frame = dict[str, Any]

WAIT_S = 10

WELCOME: Frame = {
    "type": "welcome",
    "connection": "c_1",
    "user": "anonymous",
    "features": ["resume"],
    "models": ["demo", "demo/slow"],
    "limits": {"frame_bytes_max": 1_048_576},
    "ping_ms": 20_000,
    "terminal_within_ms": 15_000,
}


class Peer:
    """One accepted connection."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.codec: Codec = CODECS.get(str(socket.subprotocol), JSON)
        self.received: list[Frame] = []
        self._incoming: asyncio.Queue[Frame] = asyncio.Queue()

    async def listen(self) -> None:
        try:
            async for data in self.socket:
                frame = self.codec.decode_object(data)
                self.received.append(frame)
                self._incoming.put_nowait(frame)
        except ConnectionClosed:
            pass

    async def next(self) -> Frame:
        """The next frame, however long it takes."""
        return await self._incoming.get()

    async def expect(self, kind: str) -> Frame:
        """The next frame; it must be of this type."""
        async with asyncio.timeout(WAIT_S):
            frame = await self._incoming.get()
        assert frame["type"] == kind, frame
        return frame

    async def say(self, *frames: Frame) -> None:
        for frame in frames:
            await self.socket.send(self.codec.encode(frame), text=not self.codec.binary)

    async def greet(self, **fields: Any) -> Frame:
        """Answer hello; the hello."""
        hello = await self.expect("hello")
        await self.say({**WELCOME, **fields})
        return hello

    async def ack(self, command: Frame, **fields: Any) -> None:
        place = {name: command[name] for name in ("session", "turn") if name in command}
        await self.say({"type": "ack", "reply_to": command["id"], **place, **fields})

    async def refuse(self, command: Frame, code: str, retry: str = "none", **fields: Any) -> None:
        error = {"code": code, "message": f"It is {code}.", "retry": retry, **fields}
        await self.say({"type": "error", "reply_to": command["id"], "error": error})

    def cut(self) -> None:
        self.socket.transport.abort()

    async def close(self, code: int, reason: str = "") -> None:
        await self.socket.close(code, reason)

    async def gone(self) -> None:
        """Until the client has left."""
        async with asyncio.timeout(WAIT_S):
            await self.socket.wait_closed()


class ScriptedServer:
    """Listens on a free port until its context ends."""

    def __init__(self) -> None:
        self.url = ""
        self.connections = 0
        self._server: Server | None = None
        self._accepted: asyncio.Queue[Peer] = asyncio.Queue()

    @classmethod
    @asynccontextmanager
    async def started(cls, *subprotocols: str) -> AsyncGenerator[Self]:
        """`subprotocols` are what it speaks; both of Turnwire's unless told otherwise, "" stands for none."""
        offered = [Subprotocol(name) for name in subprotocols or tuple(CODECS) if name]
        server = cls()
        async with serve(
            server._serve,
            "127.0.0.1",
            0,
            subprotocols=offered or None,
            compression=None,
            ping_interval=None,
            close_timeout=1,
        ) as listening:
            server._server = listening
            server.url = f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1/ws"
            yield server

    async def accepted(self) -> Peer:
        """The next connection that a client made."""
        async with asyncio.timeout(WAIT_S):
            return await self._accepted.get()

    async def _serve(self, socket: ServerConnection) -> None:
        self.connections += 1
        peer = Peer(socket)
        self._accepted.put_nowait(peer)
        await peer.listen()
