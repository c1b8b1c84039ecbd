"""A TCP proxy that breaks what goes through it: it delays, swallows, cuts and refuses, each kind of connection alone.

It is for protocols in which the client speaks first. What a connection is, its first bytes say: `kind_of` is given them
until it knows. So the replicas' connections to a
store can be stalled while everyone else's go on, and a page still loads while its WebSockets are refused.

Swallowed bytes are gone, as behind a router that forgot the connection: once a kind passes again, such a connection is
reset at its next byte, because what would follow could not be understood.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Literal, Self

CHUNK_BYTES: Final = 65_536
HEAD_BYTES_MAX: Final = 4_096
"""A connection that has not said by then what it is stays without a kind."""

Direction = Literal["onward", "back"]
"""Towards the target, or from it."""


@dataclass(slots=True)
class Rule:
    """What happens to connections of one kind. `swallow` names the directions in which nothing arrives."""

    swallow: frozenset[Direction] = frozenset()
    delay_ms: float = 0
    refuse: bool = False
    """Connections that turn out to be of this kind are reset."""
    cut_next: tuple[Direction, asyncio.Event] | None = None


@dataclass(eq=False, slots=True)
class _Connection:
    """One client and its way onward. `kind` is None until its first bytes have said it."""

    writer: asyncio.StreamWriter
    onward: asyncio.StreamWriter | None = None
    kind: str | None = None
    head: bytes = b""
    lost: set[Direction] = field(default_factory=set[Direction])
    """The ways on which something was swallowed."""

    def reset(self) -> None:
        for end in (self.writer, self.onward):
            if end is not None:
                _reset(end)


class TcpProxy:
    """Listens on a free port of 127.0.0.1 while its context lasts, and leads to `target_port`, which may change."""

    def __init__(self, target_port: int, kind_of: Callable[[bytes], str | None] = lambda _head: "any") -> None:
        self.target_port = target_port
        self.refused = 0
        self._kind_of = kind_of
        self._rules: dict[str, Rule] = {}
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def count(self, kind: str = "any") -> int:
        """How many connections of that kind are open."""
        return sum(connection.kind == kind for connection in self._connections)

    # --- what can be broken -----------------------------------------------------------------------------------------

    def rule(self, kind: str = "any") -> Rule:
        """The kind's rule, to be changed in place."""
        return self._rules.setdefault(kind, Rule())

    def cut(self, kind: str = "any") -> int:
        """Reset every connection of the kind where it stands; how many there were."""
        cut = [connection for connection in self._connections if connection.kind == kind]
        for connection in cut:
            connection.reset()
        return len(cut)

    def cut_next(self, direction: Direction, kind: str = "any") -> asyncio.Event:
        """Reset the connection of this kind that is the next to carry something that way, in place of carrying it: a
        request that never arrives, or a reply to one that did. The event is set when that has happened."""
        cut = asyncio.Event()
        self.rule(kind).cut_next = direction, cut
        return cut

    def heal(self, kind: str = "any") -> None:
        """Pass everything on again, at once; connections that lost something are reset."""
        self._rules[kind] = Rule(refuse=self.rule(kind).refuse)
        for connection in self._connections:
            if connection.kind == kind and connection.lost:
                connection.reset()

    # --- life -------------------------------------------------------------------------------------------------------

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
        connection = _Connection(writer)
        self._connections.add(connection)
        try:
            # Whoever is connected to nobody, or left already, is reset below; of that uvloop says RuntimeError.
            with suppress(OSError, RuntimeError):
                first = await reader.read(CHUNK_BYTES)
                if not first:
                    return
                self._look_at(connection, first)
                back, connection.onward = await asyncio.open_connection("127.0.0.1", self.target_port)
                if await self._passes(connection, "onward"):
                    connection.onward.write(first)
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pump(connection, "onward", reader, connection.onward))
                    both.create_task(self._pump(connection, "back", back, writer))
        finally:
            self._connections.discard(connection)
            connection.reset()

    async def _pump(
        self, connection: _Connection, way: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        # uvloop raises RuntimeError for a write to what was aborted meanwhile.
        with suppress(OSError, RuntimeError):
            while data := await reader.read(CHUNK_BYTES):
                if way == "onward" and connection.kind is None:
                    self._look_at(connection, data)
                if not await self._passes(connection, way):
                    continue
                writer.write(data)
                await writer.drain()
            if writer.can_write_eof() and not connection.lost:
                writer.write_eof()
                return
        # A reset is no orderly end: it goes through to the other side too.
        connection.reset()

    def _look_at(self, connection: _Connection, data: bytes) -> None:
        connection.head += data
        connection.kind = self._kind_of(connection.head)
        if connection.kind is None and len(connection.head) > HEAD_BYTES_MAX:
            connection.kind = ""
        if connection.kind is not None:
            connection.head = b""
            if self.rule(connection.kind).refuse:
                self.refused += 1
                raise ConnectionAbortedError

    async def _passes(self, connection: _Connection, way: Direction) -> bool:
        """Whether what came may go on; waits first, if it is to be late. Raises where the connection is to end."""
        rule = self._rules.get(connection.kind or "")
        if way in connection.lost and (rule is None or way not in rule.swallow):
            raise ConnectionAbortedError
        if rule is None:
            return True
        if rule.cut_next is not None and rule.cut_next[0] == way:
            (_, happened), rule.cut_next = rule.cut_next, None
            happened.set()
            raise ConnectionAbortedError
        if way in rule.swallow:
            connection.lost.add(way)
            return False
        if rule.delay_ms:
            await asyncio.sleep(rule.delay_ms / 1000)
        return True


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close without a word: what was not sent is thrown away, and the other end gets a TCP reset."""
    if not writer.transport.is_closing():
        opened: socket.socket = writer.get_extra_info("socket")
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
