"""The store of a run: how it dies, how it comes back, and the proof of what it lost."""

import asyncio
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import redis

from tests.faults.heads import heads_of, lost_entries
from tests.faults.plan import StorePlan
from tests.stores.server import StoreServer
from tests.support.sentinel_group import SentinelGroup
from tests.support.tcp_proxy import TcpProxy

POWER_CUT_MS: Final = (50, 1_500)
"""How much of what was written last a power cut takes, in time."""

STALL_MS: Final = (300, 2_000)
"""For how long the replicas are sent nothing before their primary dies."""


@dataclass(frozen=True, slots=True)
class Struck:
    """What a strike did. `lost`: entries that had been acknowledged and are proved to be in no store any more;
    `may_lose`: whether some may be, beyond what can be proved."""

    strike: str
    lost: int
    may_lose: bool
    away_ms: int


class SingleStore:
    """One server and its file. `proxies` are every node's way to it."""

    def __init__(self, binary: Path, folder: Path, *, port: int, fsync: str, drawn: random.Random) -> None:
        folder.mkdir()
        self.server = StoreServer(binary, folder, port=port, fsync=fsync)
        self.proxies: list[TcpProxy] = []
        self._drawn = drawn

    async def strike(self, plan: StorePlan) -> Struck:
        server = self.server
        if plan.strike == "power cut":
            await asyncio.to_thread(server.keep)
            await asyncio.sleep(self._drawn.randint(*POWER_CUT_MS) / 1000)
        before = await asyncio.to_thread(lambda: heads_of(server.client()))
        began_s = time.monotonic()
        server.kill()
        # Nobody may write before it is known what was lost.
        self._refuse(True)
        await asyncio.sleep(plan.away_ms / 1000)
        await asyncio.to_thread(server.go_back if plan.strike == "power cut" else server.start)
        after = await asyncio.to_thread(lambda: heads_of(server.client()))
        self._refuse(False)
        lost = lost_entries(before, after)
        return Struck(plan.strike, lost, lost > 0, round(1_000 * (time.monotonic() - began_s)))

    def client(self) -> redis.Redis:
        return self.server.client()

    def _refuse(self, refuse: bool) -> None:
        for proxy in self.proxies:
            proxy.rule().refuse = refuse


class ReplicatedStore:
    """A primary that fails over to one of its replicas."""

    def __init__(self, group: SentinelGroup, drawn: random.Random) -> None:
        self.group = group
        self._drawn = drawn

    def client(self) -> redis.Redis:
        return self.group.primary().server.client()

    async def strike(self, plan: StorePlan) -> Struck:
        group = self.group
        old = await asyncio.to_thread(group.primary)
        stalled = plan.strike == "failover with loss"
        if stalled:
            group.stall_replication(old)
            await asyncio.sleep(self._drawn.randint(*STALL_MS) / 1000)
        replicas = [member for member in group.members if member is not old]
        # What a stalled replica has now it will have when it is promoted, and no more.
        had = {id(member): await asyncio.to_thread(heads_of, member.server.client()) for member in replicas}
        before = await asyncio.to_thread(heads_of, old.server.client())
        offset = (await asyncio.to_thread(old.replication))["master_repl_offset"]
        began_s = time.monotonic()
        promoted = await group.fail_over(old)
        away_ms = round(1_000 * (time.monotonic() - began_s))
        survived = (await asyncio.to_thread(promoted.replication))["second_repl_offset"] - 1
        # What is written between two failovers in a row may be lost as well: the strike is over when all is quiet.
        await group.take_back(old, promoted)
        # Both must say so: the logs entry by entry, and the place at which the promoted one left the old history.
        lost = lost_entries(before, had[id(promoted)]) if stalled and survived < offset else 0
        return Struck(plan.strike, lost, True, away_ms)
