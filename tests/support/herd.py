"""A herd of clients that are cut off together and come back together, each of them as cheap as a client can be.

A member does what clients/js does with a connection: hello and session.open go out together, with the cursor that it
has; after a loss it waits for a random part of a bound that doubles (full jitter), or for as long as the server said.
Whoever watches a running answer is no member: that takes a client that checks what it shows.

All members live in one process of their own, so that whoever measures beside them measures the server. They come from
several addresses of this machine, as people do. In a test:

    async with HerdProcess.started(node.port, 5_000) as herd:
        await herd.connected()
        told = await herd.cut()
"""

import argparse
import asyncio
import json
import random
import signal
import socket
import struct
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self, cast

from tests.support.processes import start_python
from tests.support.serving import client_frame, handshake
from tests.support.tokens import shared
from tests.support.waiting import until
from turnwire.chat.wire import FullJitter
from turnwire_protocol.codes import may_reconnect

GREETING_S = 10
"""From the dial to the welcome."""
ABNORMAL = 1006
MEMBERS_PER_ADDRESS = 200

_RESET = struct.pack("ii", 1, 0)
_SUBPROTOCOL = "Sec-WebSocket-Protocol: turnwire.v1.json\r\n"


@dataclass
class Counts:
    """What happened to all members together. `ends` counts close codes, `statuses` answers that were no handshake."""

    dials: int = 0
    ends: Counter[int] = field(default_factory=Counter[int])
    statuses: Counter[str] = field(default_factory=Counter[str])
    modes: Counter[str] = field(default_factory=Counter[str])


class Member:
    """One client with one session."""

    def __init__(self, port: int, number: int, session: str, token: str, counts: Counts) -> None:
        self._port = port
        # 127.0.0.0/8 is this machine's, all of it.
        self._address = f"127.0.1.{1 + number // MEMBERS_PER_ADDRESS}"
        self._session = session
        self._token = token
        self._counts = counts
        self._wire: _Wire | None = None
        self._wait_s = FullJitter()
        self._told_to_wait_s = 0.0
        self.cursor: dict[str, Any] | None = None
        self.opened_at_s: float | None = None
        """When the session was opened on this connection, by the loop's clock."""

    async def run(self) -> None:
        """Stay connected until cancelled, or until the server says not to come back."""
        tries = 0
        try:
            while True:
                useful, code = await self._live_once()
                if not may_reconnect(code) and code != ABNORMAL:
                    return
                # A cable that was pulled says nothing against the server.
                tries = 0 if useful and code == ABNORMAL else tries + 1
                await asyncio.sleep(max(self._wait_s(tries), self._told_to_wait_s))
        finally:
            self.cut()

    def cut(self) -> None:
        """End the connection with a reset."""
        if self._wire is not None:
            self._wire.reset()

    def received(self, frame: dict[str, Any]) -> None:
        match frame["type"]:
            case "session.opened":
                self._counts.modes[frame["mode"]] += 1
                self.cursor = {name: frame[name] for name in ("gen", "seq", "turn")}
                self.opened_at_s = asyncio.get_running_loop().time()
                if self._wire is not None:
                    self._wire.useful = True
            case "error":
                self._told_to_wait_s = frame["error"].get("retry_after_ms", 0) / 1000
            case _:
                pass

    def greeting(self) -> bytes:
        opening: dict[str, Any] = {"type": "session.open", "id": "o", "session": self._session}
        if self.cursor is not None:
            opening["after"] = self.cursor
        commands = ({"type": "hello", "token": self._token}, opening)
        return b"".join(client_frame(1, json.dumps(command).encode()) for command in commands)

    async def _live_once(self) -> tuple[bool, int]:
        """One connection: whether anything came of it, and its close code."""
        self._counts.dials += 1
        self._told_to_wait_s = 0.0
        self.opened_at_s = None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(GREETING_S):
                _, wire = await loop.create_connection(
                    lambda: _Wire(self), "127.0.0.1", self._port, local_addr=(self._address, 0)
                )
        except (OSError, TimeoutError):
            self._counts.ends[ABNORMAL] += 1
            return False, ABNORMAL
        self._wire = wire
        giving_up = loop.call_later(GREETING_S, lambda: self.opened_at_s is None and wire.reset())
        try:
            await wire.over
        finally:
            giving_up.cancel()
            self._wire = None
        if wire.status is not None:
            self._counts.statuses[wire.status] += 1
        self._counts.ends[wire.code] += 1
        return wire.useful, wire.code


class _Wire(asyncio.Protocol):
    """A WebSocket to a server whose messages are short texts."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._upgraded = False
        self.code = ABNORMAL
        self.useful = False
        """Whether a session was opened on it."""
        self.status: str | None = None
        """Of an answer that was no handshake."""
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(handshake("/v1/ws", _SUBPROTOCOL))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(None)

    def reset(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._buffer += data
        if not self._upgraded:
            head, ended, rest = bytes(self._buffer).partition(b"\r\n\r\n")
            if not ended:
                return
            if not head.startswith(b"HTTP/1.1 101 "):
                self.status = head[:12].decode()
                self.reset()
                return
            self._upgraded = True
            self._buffer = bytearray(rest)
            self._transport.write(self._member.greeting())
        while (found := self._next()) is not None:
            opcode, payload = found
            if opcode == 1:
                self._member.received(json.loads(payload))
            elif opcode == 8:
                self.code = int.from_bytes(payload[:2]) if payload else 1005
                self._transport.write(client_frame(8, payload[:2]))
                self._transport.close()
            elif opcode == 9:
                self._transport.write(client_frame(10, payload))

    def _next(self) -> tuple[int, bytes] | None:
        """The next whole frame; a server's are not masked, and none of these is in fragments."""
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        size, start = buffer[1], 2
        if size >= 126:
            start = 4 if size == 126 else 10
            size = int.from_bytes(buffer[2:start])
        if len(buffer) < start + size:
            return None
        opcode, payload = buffer[0] & 0x0F, bytes(buffer[start : start + size])
        del buffer[: start + size]
        return opcode, payload


class Herd:
    """The members, running in this process."""

    def __init__(self, port: int, count: int) -> None:
        self.counts = Counts()
        names = [names_of(number) for number in range(count)]
        self.members = [
            Member(port, number, session, shared(user), self.counts) for number, (user, session) in enumerate(names)
        ]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """All of them dial as a herd does: within a moment."""
        self._tasks = [asyncio.create_task(self._begin(member)) for member in self.members]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def open_count(self) -> int:
        """How many have their session open."""
        return sum(member.opened_at_s is not None for member in self.members)

    def cut(self) -> float:
        """Reset every connection; when that was, by the loop's clock. What was counted begins anew."""
        for name, value in vars(Counts()).items():
            setattr(self.counts, name, value)
        at_s = asyncio.get_running_loop().time()
        for member in self.members:
            member.opened_at_s = None
            member.cut()
        return at_s

    async def all_open(self, patience_s: float) -> None:
        """Fails, with what happened until then, when it takes longer."""
        try:
            await until(lambda: self.open_count == len(self.members), patience_s)
        except AssertionError as error:
            told = f"{self.open_count} of {len(self.members)} are there; {vars(self.counts)}"
            raise AssertionError(f"{error}: {told}") from None

    async def _begin(self, member: Member) -> None:
        await asyncio.sleep(random.random() / 4)
        await member.run()


def names_of(number: int) -> tuple[str, str]:
    """A member's user and session."""
    return f"user-{number}", f"s-{number}"


# --- as a process -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Return:
    """How a herd came back: seconds from the cut to each member's session.opened, and what was counted until then."""

    cut_at_s: float
    """By the machine's monotonic clock."""
    resumed_s: list[float]
    dials: int
    ends: dict[str, int]
    statuses: dict[str, int]
    modes: dict[str, int]


class HerdProcess:
    """This module as a process."""

    def __init__(self, process: asyncio.subprocess.Process, patience_s: float) -> None:
        self._process = process
        self._patience_s = patience_s

    @classmethod
    @asynccontextmanager
    async def started(cls, port: int, count: int, patience_s: float) -> AsyncGenerator[Self]:
        """`patience_s` is how long all of them may take to connect, and to come back."""
        arguments = ["-m", "tests.support.herd", "--port", str(port), "--members", str(count)]
        process = await start_python([*arguments, "--patience", str(patience_s)], None)
        try:
            yield cls(process, patience_s)
        finally:
            if process.returncode is None:
                process.terminate()
            await asyncio.wait_for(process.wait(), 20)

    async def connected(self) -> float:
        """How many seconds it took."""
        return float(await self._line("connected"))

    async def cut(self) -> Return:
        """Cut all of them off; returns when all are back."""
        self._process.send_signal(signal.SIGUSR1)
        return Return(**json.loads(await self._line("resumed")))

    async def _line(self, word: str) -> str:
        assert self._process.stdout is not None
        line = (await asyncio.wait_for(self._process.stdout.readline(), self._patience_s + 20)).decode()
        said, _, rest = line.partition(" ")
        if said != word:
            raise AssertionError(line + (await self._process.stdout.read()).decode())
        return rest


async def _run(port: int, count: int, patience_s: float) -> None:
    loop = asyncio.get_running_loop()
    cut, stop = asyncio.Event(), asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, cut.set)
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    herd = Herd(port, count)
    began_s = loop.time()
    herd.start()
    await herd.all_open(patience_s)
    print("connected", loop.time() - began_s, flush=True)
    await cut.wait()
    cut_at_s = herd.cut()
    await herd.all_open(patience_s)
    # To the hundredth, because a line of output has its limit.
    opened_at_s = [member.opened_at_s for member in herd.members if member.opened_at_s is not None]
    resumed_s = sorted(round(at_s - cut_at_s, 2) for at_s in opened_at_s)
    print("resumed", json.dumps({"cut_at_s": cut_at_s, "resumed_s": resumed_s, **vars(herd.counts)}), flush=True)
    await stop.wait()
    await herd.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description="Clients that are cut off together at SIGUSR1 and come back.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--members", type=int, required=True)
    parser.add_argument("--patience", type=float, required=True, help="seconds for all of them")
    options = parser.parse_args()
    run = _run(options.port, options.members, options.patience)
    try:
        import uvloop
    except ImportError:
        asyncio.run(run)
    else:
        uvloop.run(run)


if __name__ == "__main__":
    main()
