"""The way to the store: its address, connections that come back after they were lost, and what is demanded of it.

A Lane is a connection for one purpose. It connects when it is first needed and after each loss; a call that meets no
store fails at once, because whoever calls knows better how long to wait. Commands are never sent twice from here, with
one exception that is safe: a script that the store did not know has not run.
"""

import asyncio
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import structlog

from turnwire.core.errors import FailureKind
from turnwire.ports import Failure
from turnwire.stores.redis.address import Address, StartError, address_of
from turnwire.stores.redis.scripts import load_commands
from turnwire.stores.redis.sentinel import PrimaryFinder
from turnwire.stores.redis.wire import Command, Reply, StoreError, Wire, is_no_answer

VERSION_MIN: Final = (7, 0)

CONNECT_MS: Final = 2_000
REPLY_MS: Final = 5_000
"""A store that takes longer for one reply is as good as away."""

PRIMARY_LOOK_MS: Final = 1_000
"""How often the Sentinels are asked whether the primary is another one now."""

_AWAY_CODES: Final = {"READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "NOREPLICAS", "MISCONF", "BUSY", "TRYAGAIN"}
"""Errors of a store that cannot take writes right now; nothing was carried out."""

_MOVED_CODES: Final = {"READONLY", "MASTERDOWN"}
"""This is not the primary any more: look for it anew."""

_log = structlog.get_logger(__name__)


class Link:
    """Opens connections to one store.

    `history` is the replication id of the server that the newest connection leads to: another one after each restart
    and failover, when some of what was written may be gone. `history_since` is when it was first seen, in seconds of
    time.monotonic, `history_changed` whether there was another one before it.
    """

    def __init__(self, url: str, *, reply_ms: int = REPLY_MS) -> None:
        self.address = address_of(url)
        self.history = ""
        self.history_changed = False
        self.history_since = time.monotonic()
        self._reply_ms = reply_ms
        self._finder = None if self.address.sentinels is None else PrimaryFinder(self.address)
        self._wires: weakref.WeakKeyDictionary[Wire, Address] = weakref.WeakKeyDictionary()

    async def connect(
        self,
        purpose: str,
        *,
        on_push: Callable[[list[Any]], None] | None = None,
        on_lost: Callable[[], None] | None = None,
    ) -> Wire:
        """A connection that is ready for use, all scripts loaded. Raises Failure("store_away")."""
        address = await self._primary()
        wire = await self._opened(address, on_push, on_lost)
        try:
            greeting = self._greeting(purpose)
            replies = await wire.call([*greeting, ("INFO", "replication"), *load_commands()])
        except BaseException:  # cancelled: nobody else knows of this connection yet
            wire.close()
            raise
        for reply in replies:
            if is_no_answer(reply):
                wire.close()
                raise Failure("store_away", f"refused at {address.described}: {_why(reply)}")
        facts = _facts(replies[len(greeting)])
        if self._finder is not None and facts.get("role") != "master":
            wire.close()
            raise Failure("store_away", f"{address.described} is no primary (yet, or any more)")
        self._note_history(facts.get("master_replid", ""))
        self._wires[wire] = address
        return wire

    async def follow_primary(self) -> None:
        """Leave a server that the Sentinels do not call the primary any more, for ever: cut off from them, it might
        take writes that are lost. Where there are no Sentinels, this returns at once."""
        while self._finder is not None:
            await asyncio.sleep(PRIMARY_LOOK_MS / 1000)
            try:
                primary = await self._primary()
            except Failure as failure:  # nobody to ask: what works is kept
                _log.warning("sentinels_away", detail=failure.detail)
                continue
            for wire, address in list(self._wires.items()):
                if not wire.lost and address != primary:
                    _log.warning("primary_changed", detail=f"from {address.described} to {primary.described}")
                    wire.close()

    def close(self) -> None:
        """Let go of the Sentinels; lanes are closed by those who have them."""
        if self._finder is not None:
            self._finder.close()

    async def _primary(self) -> Address:
        if self._finder is None:
            return self.address
        host, port = await self._finder.find()
        return replace(self.address, host=host, port=port)

    async def _opened(
        self, address: Address, on_push: Callable[[list[Any]], None] | None, on_lost: Callable[[], None] | None
    ) -> Wire:
        loop = asyncio.get_running_loop()

        def make() -> Wire:
            return Wire(timeout_ms=self._reply_ms, on_push=on_push, on_lost=on_lost)

        try:
            async with asyncio.timeout(CONNECT_MS / 1000):
                if address.path is not None:
                    _, wire = await loop.create_unix_connection(make, address.path)
                else:
                    _, wire = await loop.create_connection(make, address.host, address.port, ssl=address.tls)
        except (OSError, TimeoutError) as error:
            raise Failure("store_away", f"{type(error).__name__} at {address.described}") from error
        return wire

    def _note_history(self, replid: str) -> None:
        if replid == self.history:
            return
        if self.history:
            self.history_changed = True
            _log.warning("store_history_changed", detail=self.address.described)
        self.history = replid
        self.history_since = time.monotonic()

    def _greeting(self, purpose: str) -> list[Command]:
        address = self.address
        hello: list[str] = ["HELLO", "3"]
        if address.password is not None:
            hello += ["AUTH", address.username or "default", address.password]
        hello += ["SETNAME", f"turnwire-{purpose}"]
        greeting: list[Command] = [tuple(hello)]
        if address.db:
            greeting.append(("SELECT", address.db))
        return greeting

    async def check(self) -> str:
        """The server's name and version, if it is one that can be relied on. Raises StartError."""
        address = self.address
        try:
            wire = await self.connect("check")
        except Failure as failure:
            raise StartError(f"The store cannot be used: {failure.detail}; see TURNWIRE_REDIS_URL.") from failure
        try:
            replies = await wire.call([("INFO", "server"), ("INFO", "memory")])
        finally:
            wire.close()
        if any(is_no_answer(reply) for reply in replies):
            raise StartError(f"The store at {address.described} does not answer INFO: {_why(replies[0])}.")
        facts = _facts(*replies)
        version = facts.get("redis_version", "0")
        name = "Valkey" if facts.get("server_name") == "valkey" else "Redis"
        shown = f"{name} {facts.get('valkey_version', version)}"
        if tuple(int(part) for part in version.split(".")[:2]) < VERSION_MIN:
            raise StartError(f"The store at {address.described} is {shown}; Redis 7.0 or Valkey is needed.")
        policy = facts.get("maxmemory_policy", "noeviction")
        if policy != "noeviction" and facts.get("maxmemory", "0") != "0":
            raise StartError(
                f"The store at {address.described} has maxmemory-policy {policy} and would forget running turns; "
                "set it to noeviction."
            )
        return shown


def _facts(*sections: bytes) -> dict[str, str]:
    lines = (line.partition(":") for section in sections for line in section.decode().splitlines())
    return {name: value for name, colon, value in lines if colon}


def _why(reply: Reply) -> str:
    return str(reply) if isinstance(reply, StoreError) else "the connection was lost"


class Lane:
    """A connection for one purpose, made when it is needed and again after it was lost."""

    def __init__(self, link: Link, purpose: str) -> None:
        self._link = link
        self._purpose = purpose
        self._wire: Wire | None = None
        self._connecting: asyncio.Task[Wire] | None = None

    async def run(self, commands: Sequence[Command]) -> list[Reply]:
        """Replies in order: values, StoreError, or LOST. Raises Failure("store_away") when nothing was sent."""
        wire = await self._connected()
        replies = await wire.call(commands)
        for index, reply in enumerate(replies):
            if isinstance(reply, StoreError):
                return await self._mend(wire, commands, replies, index)
        return replies

    async def one(self, command: Command) -> Reply:
        """The reply to one command. Raises Failure for every answer that is none."""
        return _definite((await self.run((command,)))[0])

    async def in_order(self, commands: Sequence[Command]) -> list[Reply]:
        """Replies to commands that only read, carried out one after the other. Raises Failure for an answer that is
        none. Where a script was not known, all of them are sent again, so that none comes out of its turn."""
        wire = await self._connected()
        replies = await wire.call(commands)
        if any(isinstance(reply, StoreError) and reply.code == "NOSCRIPT" for reply in replies):
            loads = load_commands()
            replies = (await wire.call([*loads, *commands]))[len(loads) :]
        return [_definite(reply) for reply in replies]

    async def aclose(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._wire is not None:
            self._wire.close()

    async def _mend(self, wire: Wire, commands: Sequence[Command], replies: list[Reply], first: int) -> list[Reply]:
        """Send again what the store did not know; leave a store that is no primary any more."""
        codes = {index: reply.code for index, reply in enumerate(replies) if isinstance(reply, StoreError)}
        unknown = [index for index in range(first, len(replies)) if codes.get(index) == "NOSCRIPT"]
        if unknown:
            loads = load_commands()
            again = await wire.call([*loads, *(commands[index] for index in unknown)])
            for index, reply in zip(unknown, again[len(loads) :], strict=True):
                replies[index] = reply
        if _MOVED_CODES.intersection(codes.values()):
            wire.close()
        return replies

    async def _connected(self) -> Wire:
        """All callers wait for the same attempt, which goes on when one of them is cancelled."""
        if self._wire is not None and not self._wire.lost:
            return self._wire
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._link.connect(self._purpose), name=f"store {self._purpose}")
            self._connecting.add_done_callback(self._on_connected)
        return await asyncio.shield(self._connecting)

    def _on_connected(self, task: asyncio.Task[Wire]) -> None:
        self._connecting = None
        if not task.cancelled() and task.exception() is None:
            self._wire = task.result()


def _definite(reply: Reply) -> Reply:
    if is_no_answer(reply):
        raise failure_of(reply)
    return reply


def failure_of(reply: Reply) -> Failure:
    """What an answer that is none means."""
    if not isinstance(reply, StoreError):
        return Failure("store_away", "no reply")
    kind: FailureKind = "internal"
    if reply.code == "OOM":
        kind = "store_full"
    elif reply.code in _AWAY_CODES:
        kind = "store_away"
    # Some errors quote the arguments, which are nobody's business in a log.
    return Failure(kind, str(reply).partition(", with args")[0][:200])
