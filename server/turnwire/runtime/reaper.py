"""Finds turns that nobody runs any more, and sees to it that each of them ends.

Every node sweeps; the script that takes a turn decides which of them gets it. A lease that was written before the
store's last restart says nothing about whether its writer lives, because the store may have been away for longer than
the lease: such a turn is taken only one full lease after this node first saw it so.
"""

import asyncio
import random
from collections import OrderedDict
from typing import Final

import structlog

from turnwire.ports import Clock, Failure, SessionLog, TurnKey
from turnwire.runtime.running_turns import RunningTurns

SWEEP_TURNS_MAX: Final = 100
FOREIGN_MAX: Final = 10_000

_log = structlog.get_logger(__name__)


class Reaper:
    """`sweep_ms` between sweeps, jittered by a quarter; `lease_ms` is the lease of every node."""

    def __init__(self, log: SessionLog, running: RunningTurns, clock: Clock, *, sweep_ms: int, lease_ms: int) -> None:
        self._log = log
        self._running = running
        self._clock = clock
        self._sweep_ms = sweep_ms
        self._lease_ms = lease_ms
        self._foreign_since_ms: OrderedDict[TurnKey, int] = OrderedDict()

    async def run(self) -> None:
        """Sweep for ever."""
        while True:
            try:
                await self.sweep()
            except Failure as failure:
                _log.warning("sweep_failed", kind=failure.kind)
            await asyncio.sleep(self._sweep_ms * random.uniform(0.75, 1.25) / 1000)

    async def sweep(self) -> None:
        for key in await self._log.overdue_turns(SWEEP_TURNS_MAX):
            await self.look_at(key)

    async def look_at_quietly(self, key: TurnKey) -> None:
        """Like look_at, for somebody who has other things to do when the store does not answer: the sweep will come."""
        try:
            await self.look_at(key)
        except Failure as failure:
            _log.warning("look_failed", turn=key.turn, kind=failure.kind)

    async def look_at(self, key: TurnKey) -> None:
        """Take an overdue turn, if it may be taken. Raises Failure when the store does not answer."""
        if key in self._running:
            return
        now_ms = self._clock.monotonic_ms()
        since_ms = self._foreign_since_ms.get(key)
        waited = since_ms is not None and now_ms - since_ms >= self._lease_ms
        taken = await self._running.take(key, after_restart=waited)
        if taken.result != "foreign":
            self._foreign_since_ms.pop(key, None)
        elif since_ms is None:
            self._foreign_since_ms[key] = now_ms
            if len(self._foreign_since_ms) > FOREIGN_MAX:
                self._foreign_since_ms.popitem(last=False)
