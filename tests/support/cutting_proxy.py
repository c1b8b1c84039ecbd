"""A TCP proxy between a client and a node that can cut connections, refuse them, and lead to another node.

It reads no more than the first line of a connection, to tell a WebSocket from a page that is loaded.
"""

import asyncio
import socket
import struct
from contextlib import suppress
from types import TracebackType
from typing import Self

WEBSOCKET = b"GET /v1/ws"
CHUNK_BYTES = 65_536


class CuttingProxy:
    """Listens on a free port of 127.0.0.1 while its context lasts, and leads to `target_port`, which may change."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.refusing = False
        """New WebSockets are cut off at once; the page's files still load."""
        self.refused = 0
        self._websockets: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def http_url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def websockets(self) -> int:
        """How many are open."""
        return len(self._websockets)

    def cut(self) -> int:
        """Reset every WebSocket where it stands; how many there were."""
        cut = list(self._websockets)
        for writer in cut:
            _reset(writer)
        return len(cut)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._relay(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward: asyncio.StreamWriter | None = None
        try:
            # A browser opens connections ahead of need, and closes them without a word.
            with suppress(OSError, asyncio.IncompleteReadError):
                first = await reader.readuntil(b"\n")
                if first.startswith(WEBSOCKET):
                    if self.refusing:
                        self.refused += 1
                        return
                    self._websockets.add(writer)
                back, onward = await asyncio.open_connection("127.0.0.1", self.target_port)
                onward.write(first)
                async with asyncio.TaskGroup() as both:
                    both.create_task(_pump(reader, onward))
                    both.create_task(_pump(back, writer))
        finally:
            self._websockets.discard(writer)
            for end in (writer, onward):
                if end is not None:
                    _reset(end)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
            return
    # A reset is no orderly end: it goes through to the other side too.
    _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close without a word: what was not sent is thrown away, and the other end gets a TCP reset."""
    if not writer.transport.is_closing():
        opened: socket.socket = writer.get_extra_info("socket")
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
