"""Finds turns that nobody runs any more, and sees to it that each of them ends.

Every node sweeps; the script that takes a turn decides which of them gets it. An overdue lease says that its writer is
dead only as long as writers could renew. When this node could not reach the store for a while, others may not have
reached it either; so afterwards a turn that somebody had is taken only once every living writer has had one full lease
in which to renew it. A lease from before the store's last restart may be of a time when nobody could, too: a node that
came up since then gives its writer one lease. Who was there at the restart takes nothing at all while writers put back
what the store lost, which is for longer: also a turn that nobody has may be theirs.
"""

import asyncio
import random
from typing import Final

import structlog

from turnwire.ports import Claim, Clock, Failure, SessionLog, TurnKey
from turnwire.runtime.running_turns import RunningTurns

SWEEP_TURNS_MAX: Final = 100

_log = structlog.get_logger(__name__)


class Reaper:
    """`sweep_ms` between sweeps, jittered by a quarter; `lease_ms` is the lease of every node."""

    def __init__(self, log: SessionLog, running: RunningTurns, clock: Clock, *, sweep_ms: int, lease_ms: int) -> None:
        self._log = log
        self._running = running
        self._clock = clock
        self._sweep_ms = sweep_ms
        self._lease_ms = lease_ms
        self._up_since_ms = clock.monotonic_ms()
        self._reached_ms = self._up_since_ms
        """When the store answered last."""
        self._back_since_ms: int | None = None
        """When the store answered again after it had been away; None when it never was."""

    async def run(self) -> None:
        """Sweep for ever."""
        while True:
            try:
                await self.sweep()
            except Failure as failure:
                _log.warning("sweep_failed", kind=failure.kind)
            await asyncio.sleep(self._sweep_ms * random.uniform(0.75, 1.25) / 1000)  # noqa: S311 - a jitter is no secret

    async def sweep(self) -> None:
        overdue = await self._log.overdue_turns(SWEEP_TURNS_MAX)
        now_ms = self._clock.monotonic_ms()
        if self._is_cut_off(now_ms):
            _log.warning("store_was_away", waited_ms=now_ms - self._reached_ms)
            self._back_since_ms = now_ms
        self._reached_ms = now_ms
        for key in overdue:
            await self.look_at(key)

    async def look_at_quietly(self, key: TurnKey) -> None:
        """Like look_at, for somebody who has other things to do when the store does not answer: the sweep will come."""
        try:
            await self.look_at(key)
        except Failure as failure:
            _log.warning("look_failed", turn=key.turn, kind=failure.kind)

    async def look_at(self, key: TurnKey) -> None:
        """Take an overdue turn, if it may be taken. Raises Failure when the store does not answer."""
        if self._running.taking and not self._log.recovering and not self._running.runs(key):
            await self._running.take(key, self._claim(self._clock.monotonic_ms()))

    def _claim(self, now_ms: int) -> Claim:
        back_ms = self._back_since_ms
        if self._is_cut_off(now_ms) or (back_ms is not None and now_ms - back_ms < self._lease_ms):
            return "ownerless"
        return "overdue" if now_ms - self._up_since_ms < self._lease_ms else "foreign"

    def _is_cut_off(self, now_ms: int) -> bool:
        """Whether the store has been silent for so long that a living writer's lease may have run out. It had more than
        half of it left at any time, because it is renewed more than twice in it."""
        return now_ms - self._reached_ms > self._lease_ms / 2
