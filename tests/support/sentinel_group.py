"""One primary, two replicas and three Sentinels on loopback, each store behind a proxy of its own.

Everyone takes the proxy's address for the store's: the nodes, the other stores, the Sentinels. So the replicas'
connections can be stalled alone, and a primary can be killed that has acknowledged what no replica was ever sent.
(A replica that is stopped with SIGSTOP loses nothing: what it was sent waits in its socket's buffer.)
"""

import asyncio
import socket
import subprocess
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast

import redis

from tests.stores.server import StoreServer
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import until_in_a_thread

MASTER: Final = "turns"
DOWN_AFTER_MS: Final = 1_000
READY_S: Final = 60
STEADY_S: Final = 1.5

_CLIENT_HEAD_BYTES: Final = 400


def kind_of(head: bytes) -> str | None:
    """Who connects to a store. A replica pings first, and a Sentinel says its name."""
    upper = head.upper()
    if b"REPLCONF" in upper or b"PSYNC" in upper:
        return "replica"
    if b"SENTINEL-" in upper:
        return "sentinel"
    return "client" if b"HELLO" in upper or len(head) > _CLIENT_HEAD_BYTES else None


class Member:
    """One of the stores, at the address of its proxy."""

    def __init__(self, server: StoreServer, proxy: TcpProxy) -> None:
        self.server = server
        self.proxy = proxy

    def replication(self) -> dict[str, Any]:
        """INFO replication, asked past the proxy."""
        with self.server.client() as client:
            return client.info("replication")


class SentinelGroup:
    """Use as an async context manager; it is ready when it is entered. `url` is for the nodes."""

    def __init__(self, binary: Path, folder: Path, *, fsync: str = "everysec") -> None:
        self._binary = binary
        self._folder = folder
        self._fsync = fsync
        self._stack = AsyncExitStack()
        self.members: list[Member] = []
        self._sentinel_ports: list[int] = []

    @property
    def url(self) -> str:
        places = ",".join(f"127.0.0.1:{port}" for port in self._sentinel_ports)
        return f"redis+sentinel://{places}/{MASTER}/0"

    def primary(self) -> Member:
        """Which one most Sentinels name."""
        named = [self._named_by(port) for port in self._sentinel_ports]
        newest = max(set(named), key=named.count)
        return next((member for member in self.members if member.proxy.port == newest), self.members[0])

    async def settled(self) -> Member:
        """Wait until both others follow the primary, every Sentinel knows that, and it has been so for a while: two
        Sentinels may each be elected, in epochs of their own, and the later one then fails over once more."""
        since_s: float | None = None
        primary = self.members[0]

        def is_settled() -> bool:
            nonlocal since_s, primary
            named = self.primary()
            if named is not primary or not self._is_ready(named):
                since_s, primary = None, named
                return False
            since_s = since_s or time.monotonic()
            return time.monotonic() - since_s >= STEADY_S

        await until_in_a_thread(is_settled, READY_S)
        return primary

    def stall_replication(self, of: Member) -> None:
        """From now on the replicas are sent nothing, and go on telling how far they are."""
        of.proxy.rule("replica").swallow = frozenset(("back",))

    async def fail_over(self, old: Member) -> Member:
        """Kill the primary; the replica that is promoted, once all Sentinels name it."""
        await asyncio.to_thread(old.server.kill)
        old.proxy.heal("replica")
        await until_in_a_thread(
            lambda: {self._named_by(port) for port in self._sentinel_ports} != {old.proxy.port}, READY_S
        )
        await until_in_a_thread(lambda: len({self._named_by(port) for port in self._sentinel_ports}) == 1, READY_S)
        promoted = self.primary()
        await until_in_a_thread(lambda: promoted.replication()["role"] == "master", READY_S)
        return promoted

    async def take_back(self, old: Member, primary: Member) -> Member:
        """Start a store that was killed as a replica of this primary; who is the primary when all is well again."""
        await asyncio.to_thread(old.server.start, "--replicaof", f"127.0.0.1 {primary.proxy.port}")
        return await self.settled()

    # --- life -------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        for name in ("a", "b", "c"):
            self.members.append(await self._member(name))
        first, *others = self.members
        await asyncio.to_thread(first.server.start)
        for other in others:
            await asyncio.to_thread(other.server.start, "--replicaof", f"127.0.0.1 {first.proxy.port}")
        await until_in_a_thread(lambda: first.replication()["connected_slaves"] == 2, READY_S)
        for number in range(3):
            self._start_sentinel(number, first)
        await self.settled()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _member(self, name: str) -> Member:
        folder = self._folder / name
        folder.mkdir(parents=True)
        port = free_port()
        proxy = await self._stack.enter_async_context(TcpProxy(port, kind_of))
        announced = ("--replica-announce-ip", "127.0.0.1", "--replica-announce-port", str(proxy.port))
        quick = ("--repl-diskless-sync-delay", "0")
        server = StoreServer(self._binary, folder, port=port, fsync=self._fsync, arguments=(*announced, *quick))
        self._stack.callback(server.stop)
        return Member(server, proxy)

    def _start_sentinel(self, number: int, primary: Member) -> None:
        folder = self._folder / f"sentinel-{number}"
        folder.mkdir()
        port = free_port()
        settings = [
            f"port {port}",
            "bind 127.0.0.1",
            f"dir {folder}",
            f"sentinel monitor {MASTER} 127.0.0.1 {primary.proxy.port} 2",
            f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {MASTER} 5000",
            f"sentinel parallel-syncs {MASTER} 2",
        ]
        (folder / "sentinel.conf").write_text("\n".join(settings) + "\n")
        with (folder / "log").open("wb") as output:
            process = subprocess.Popen(
                [str(self._binary), str(folder / "sentinel.conf"), "--sentinel"],
                stdout=output,
                stderr=subprocess.STDOUT,
            )

        def end() -> None:
            process.kill()
            process.wait()

        self._stack.callback(end)
        self._sentinel_ports.append(port)

    def _named_by(self, port: int) -> int:
        """The port of the primary, as one Sentinel says; 0 where it says nothing."""
        with suppress(redis.RedisError), redis.Redis(port=port, decode_responses=True) as client:
            found = cast("list[str] | None", client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER))
            return int(found[1]) if found else 0
        return 0

    def _is_ready(self, primary: Member) -> bool:
        with suppress(redis.RedisError):
            replication = primary.replication()
            following = [replication.get(f"slave{number}", {}) for number in range(2)]
            if replication["role"] != "master" or any(replica.get("state") != "online" for replica in following):
                return False
            return all(self._knows_all(port, primary) for port in self._sentinel_ports)
        return False

    def _knows_all(self, port: int, primary: Member) -> bool:
        """Whether a Sentinel knows this primary, two replicas that are well, and two other Sentinels."""
        with redis.Redis(port=port, decode_responses=True) as client:
            master = cast("dict[str, Any]", client.execute_command("SENTINEL", "MASTER", MASTER))
            replicas = cast("list[dict[str, Any]]", client.execute_command("SENTINEL", "REPLICAS", MASTER))
        known = (int(master["port"]), int(master["num-slaves"]), int(master["num-other-sentinels"]))
        return known == (primary.proxy.port, 2, 2) and not any("down" in str(replica["flags"]) for replica in replicas)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now, for a server that cannot choose one itself."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port: int = unused.getsockname()[1]
    return port
