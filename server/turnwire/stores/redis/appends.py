"""Appends of a node's turns, on two connections: pieces of answers on one, ends of turns on the other.

Ends may wait for a replica, and a store that waits on a connection answers nothing else there. Whether a replica has an
end is told, and never hidden by waiting for ever.
"""

import time
from collections.abc import Sequence
from typing import Final

import structlog

from turnwire.core.entries import Event
from turnwire.core.log_values import Appended, Batch
from turnwire.ports import Failure
from turnwire.stores.redis import scripts
from turnwire.stores.redis.keys import idle_name, sessions_name, turn_keys
from turnwire.stores.redis.link import Lane, Link, failure_of
from turnwire.stores.redis.records import packed
from turnwire.stores.redis.replies import appended_of
from turnwire.stores.redis.scripts import fresh_gen
from turnwire.stores.redis.wire import Command, Reply, StoreError, is_no_answer

WAIT_MS: Final = 500
"""How long a terminal waits for replicas."""
WAIT_AGAIN_MS: Final = 5_000
"""After replicas did not keep up: when they are waited for again."""

_AWAY: Final = Appended("away")
_FULL: Final = Appended("full")

_log = structlog.get_logger(__name__)


class Appends:
    """`replicas` is how many of them an end is to reach, `idle_ms` after how long without a write a session goes.

    `unreplicated` counts the ends that no replica, or too few, confirmed in time.
    """

    def __init__(self, link: Link, *, replicas: int, idle_ms: int) -> None:
        self._appends = Lane(link, "appends")
        self._seals = Lane(link, "seals")
        self.lanes = (self._appends, self._seals)
        self.unreplicated = 0
        self._replicas = replicas
        self._idle_ms = idle_ms
        self._no_wait_until_s = 0.0

    async def append_many(self, batches: Sequence[Batch]) -> Sequence[Appended]:
        return await self._append(self._appends, batches)

    async def seal_many(self, batches: Sequence[Batch]) -> Sequence[Appended]:
        replicas = self._replicas
        if replicas == 0 or time.monotonic() < self._no_wait_until_s:
            self.unreplicated += len(batches) if replicas else 0
            return await self._append(self._seals, batches)
        wait: Command = ("WAIT", replicas, WAIT_MS)
        return await self._append(self._seals, batches, wait)

    async def _append(self, lane: Lane, batches: Sequence[Batch], wait: Command | None = None) -> Sequence[Appended]:
        gen = fresh_gen()
        commands = [self._append_command(batch, gen) for batch in batches]
        try:
            replies = await lane.run(commands if wait is None else [*commands, wait])
        except Failure:  # nothing was sent
            return [_AWAY] * len(batches)
        if wait is not None:
            self._note_reached(replies.pop(), len(batches))
        return [_refused(reply) if is_no_answer(reply) else appended_of(reply) for reply in replies]

    def _note_reached(self, reached: Reply, seals: int) -> None:
        """How many replicas have the terminals. Too few is told, and for a while nothing waits for them: a replica that
        is gone must not hold up every answer's end. What it lacks when it takes over, writers put back."""
        if not is_no_answer(reached) and reached >= self._replicas:
            return
        self.unreplicated += seals
        self._no_wait_until_s = time.monotonic() + WAIT_AGAIN_MS / 1000
        _log.warning("ends_not_replicated", turns=seals)

    def _append_command(self, batch: Batch, gen: str) -> Command:
        key = batch.key
        entries = batch.entries
        session, leases, turn = turn_keys(key)
        head = (gen, key.turn, batch.nonce, batch.batch, str(batch.counter), str(len(entries)))
        if batch.seal is None and batch.park_until_ms is None:
            return ("EVALSHA", scripts.APPEND.sha, "3", session, leases, turn, *head, *packed(entries))
        keys = (session, leases, turn, sessions_name(key.owner), idle_name(key.owner))
        idle_ms = self._idle_ms
        if batch.seal is not None:
            terminal = entries[-1]
            assert isinstance(terminal, Event)  # noqa: S101 - for the type checker: a seal comes with its terminal
            tail = (batch.seal.state, batch.seal.record, terminal.type, terminal.body, idle_ms)
            used = (str(batch.seal.used.tokens), str(batch.seal.used.nano_usd))
            return scripts.SEAL.command(keys, (*head, *packed(entries), *tail, *used))
        asked = [
            entry.fields["request"] for entry in entries if isinstance(entry, Event) and entry.type == "turn.asked"
        ]
        return scripts.PARK.command(keys, (*head, *packed(entries), batch.park_until_ms or 0, idle_ms, *asked))


def _refused(reply: Reply) -> Appended:
    if not isinstance(reply, StoreError):
        return _AWAY
    if reply.code == "OOM":
        return _FULL
    failure = failure_of(reply)
    if failure.kind == "internal":
        _log.error("append_failed", detail=failure.detail)
    return _AWAY
