"""ports.SessionLog on Redis 7 or Valkey.

Every call that writes is one script: atomic, idempotent, with the store's own time. What stands here is packing,
unpacking and what an answer that is none means; the rules are in the scripts (lua/, each opens with its contract).

Calls share connections by purpose, so that a large read delays no append. A caller may be cancelled inside any call:
its reply is dropped when it comes, and whether the store carried the call out it can learn by repeating it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import orjson

from turnwire.core.log_values import (
    Accepted,
    AcceptRequest,
    Appended,
    Batch,
    Cancelled,
    Claim,
    Deleted,
    ListPlace,
    LogRange,
    Nudge,
    Renewed,
    Responded,
    SessionChange,
    SessionInfo,
    SessionKey,
    SessionPage,
    SessionView,
    StoredTurn,
    Taken,
    TurnKey,
    TurnPage,
    Updated,
)
from turnwire.ports import Failure
from turnwire.stores.redis import scripts
from turnwire.stores.redis.address import StartError
from turnwire.stores.redis.appends import Appends
from turnwire.stores.redis.counted import counted_arguments
from turnwire.stores.redis.keys import (
    beside_sessions,
    cancels_name,
    idle_indexes,
    idle_name,
    lease_indexes,
    session_keys,
    session_of_member,
    sessions_name,
    turn_keys,
    turn_of_member,
)
from turnwire.stores.redis.link import Lane, Link, failure_of
from turnwire.stores.redis.nudges import NudgeReader
from turnwire.stores.redis.replies import (
    accepted_of,
    cancelled_of,
    deleted_of,
    range_of,
    renewed_of,
    responded_of,
    taken_of,
    updated_of,
)
from turnwire.stores.redis.scripts import fresh_gen
from turnwire.stores.redis.sessions import SessionReads
from turnwire.stores.redis.wire import LOST, Reply, is_no_answer

PIPELINE_MAX: Final = 500
"""Commands in one pipeline of renewals or looks."""

EXPIRE_EVERY_MS: Final = 60_000
EXPIRE_SESSIONS_MAX: Final = 32
"""Sessions that one node removes in one pass; more wait for the next."""


@dataclass(frozen=True, slots=True)
class LogLimits:
    """How much the log keeps, and for how long."""

    lease_ms: int = 10_000
    queue_turns_max: int = 16
    queue_wait_ms: int = 600_000
    pending_cancels_max: int = 64
    pending_cancel_ms: int = 60_000
    deleted_ms: int = 86_400_000
    """How long the name of a deleted session stays taken."""
    idle_ms: int = 30 * 86_400_000
    """After how long without a write a session is removed."""
    log_entries_max: int = 10_000
    """A log that is longer when a turn begins in a quiet session is cut."""
    log_entries_keep: int = 2_000
    read_bytes_max: int = 16 * 1024 * 1024
    """What finished turns may weigh in one read; older ones are left out."""
    replicas: int = 0
    """How many replicas a terminal is to reach before anybody hears of it, if they are there."""
    settle_ms: int = 12_000
    """After a change of the store's history: how long writers may take to put back what was lost. No shorter than a
    lease, in which each of them has renewed what it has."""
    readers_settle_ms: int = 15_000
    """The same for what is shown, and after this node came up: a turn that runs is put back only behind the end of the
    one before it, which nobody may have any more, so that somebody has to write one after `settle_ms`."""


class RedisSessionLog:
    """Use as an async context manager: entering checks the store (raises link.StartError) and subscribes.

    `node` names this process in leases and is where cancels of its turns are sent; no two processes share one.
    """

    def __init__(self, link: Link, *, node: str, limits: LogLimits | None = None) -> None:
        self._link = link
        self._node = node
        self._limits = limits or LogLimits()
        self._appends = Appends(link, replicas=self._limits.replicas, idle_ms=self._limits.idle_ms)
        self._calls = Lane(link, "calls")
        self._reads = Lane(link, "reads")
        self._lanes = (*self._appends.lanes, self._calls, self._reads)
        self._sessions = SessionReads(self._reads, bytes_max=self._limits.read_bytes_max)
        self._nudges = NudgeReader(link, node)
        self._expire_after_s = time.monotonic() + EXPIRE_EVERY_MS / 1000
        self._following: asyncio.Task[None] | None = None
        self.version = ""
        """The store's name and version, once it was entered."""

    async def __aenter__(self) -> Self:
        self.version = await self._link.check()
        try:
            await self._nudges.open()
        except Failure as failure:
            raise StartError(f"The store went away while it was being opened: {failure.detail}.") from failure
        following = asyncio.create_task(self._link.follow_primary(), name="follow primary")
        self._following = self._nudges.supervised(following)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        await self._nudges.aclose()
        for lane in self._lanes:
            await lane.aclose()
        self._link.close()

    async def ping(self) -> None:
        if not self._nudges.subscribed:
            raise Failure("store_away", "the subscription is lost")
        for lane in self._lanes:
            await lane.one(("PING",))

    @property
    def history(self) -> str:
        return self._link.history

    @property
    def unreplicated(self) -> int:
        return self._appends.unreplicated

    @property
    def recovering(self) -> bool:
        return self._link.history_changed and self._history_age_ms < self._limits.settle_ms

    @property
    def unsettled(self) -> bool:
        return self._history_age_ms < self._limits.readers_settle_ms

    @property
    def _history_age_ms(self) -> float:
        return (time.monotonic() - self._link.history_since) * 1000

    # --- writing --------------------------------------------------------------------------------------------------

    async def accept_turn(self, request: AcceptRequest) -> Accepted:
        limits = self._limits
        key = request.key
        parent = request.parent if isinstance(request.parent, str) else f"={request.parent[0]}"
        reply = await self._calls.one(
            scripts.ACCEPT.command(
                [*turn_keys(key), sessions_name(key.owner), cancels_name(key.owner), idle_name(key.owner)],
                [
                    fresh_gen(),
                    key.turn,
                    request.nonce,
                    request.digest,
                    request.body,
                    request.spec,
                    request.cancelled_body,
                    parent,
                    request.on_busy,
                    request.author,
                    self._node,
                    limits.lease_ms,
                    orjson.dumps({"by": request.author}),
                    "" if request.cancel_after_ms is None else request.cancel_after_ms,
                    limits.queue_turns_max,
                    limits.queue_wait_ms,
                    limits.log_entries_max,
                    limits.log_entries_keep,
                    limits.idle_ms,
                    request.preview,
                    "put_back" if request.put_back else "",
                    *counted_arguments(request.counted),
                    request.taken_from or "",
                    request.predecessor or "",
                ],
            )
        )
        return accepted_of(reply)

    async def append_many(self, batches: Sequence[Batch]) -> Sequence[Appended]:
        return await self._appends.append_many(batches)

    async def seal_many(self, batches: Sequence[Batch]) -> Sequence[Appended]:
        return await self._appends.seal_many(batches)

    async def renew_leases(self, leases: Sequence[tuple[TurnKey, str]]) -> Sequence[Renewed]:
        gen = fresh_gen()
        lease_ms = self._limits.lease_ms
        commands = [scripts.RENEW.command(turn_keys(key), (gen, key.turn, nonce, lease_ms)) for key, nonce in leases]
        renewed: list[Renewed] = []
        for start in range(0, len(commands), PIPELINE_MAX):
            some = commands[start : start + PIPELINE_MAX]
            try:
                replies: list[Reply] = await self._calls.run(some)
            except Failure:  # nothing was sent
                replies = [LOST] * len(some)
            renewed.extend(Renewed("away") if is_no_answer(reply) else renewed_of(reply) for reply in replies)
        return renewed

    async def take_turn(self, key: TurnKey, nonce: str, claim: Claim = "overdue") -> Taken:
        arguments = (fresh_gen(), key.turn, nonce, self._node, self._limits.lease_ms, claim)
        reply = await self._calls.one(scripts.TAKE.command(turn_keys(key), arguments))
        if reply[0] != b"taken":
            return taken_of(key, nonce, reply, ())
        gen, seq, head = reply[1], reply[4], reply[8]
        entries = await self._sessions.entries(key.session_key, gen, seq, head)
        if entries is None:
            # It is ours, but what it has said so far is not to be had: its lease will run out and be taken anew.
            raise Failure("store_away", "the store's history changed while a turn was taken")
        return taken_of(key, nonce, reply, [logged for logged in entries if logged.entry.turn == key.turn])

    async def overdue_turns(self, count_max: int) -> Sequence[TurnKey]:
        if time.monotonic() >= self._expire_after_s:
            self._expire_after_s = time.monotonic() + EXPIRE_EVERY_MS / 1000
            await self.expire_sessions(EXPIRE_SESSIONS_MAX)
        return [turn_of_member(member) for member in await self._due(lease_indexes(), count_max)]

    async def cancel_turn(self, key: TurnKey, by: str, reason: str) -> Cancelled:
        """`reason` is for the caller's own log: the wire tells only who cancelled."""
        limits = self._limits
        arguments = (
            fresh_gen(),
            key.turn,
            by,
            orjson.dumps({"by": by}),
            limits.pending_cancels_max,
            limits.pending_cancel_ms,
        )
        keys = (*turn_keys(key), cancels_name(key.owner))
        return cancelled_of(await self._calls.one(scripts.CANCEL.command(keys, arguments)))

    async def respond_turn(self, key: TurnKey, request: str, by: str, value: bytes) -> Responded:
        body = orjson.dumps({"request": request, "by": by})
        arguments = (fresh_gen(), key.turn, request, by, value, body)
        return responded_of(await self._calls.one(scripts.RESPOND.command(turn_keys(key), arguments)))

    async def update_session(self, key: SessionKey, change: SessionChange) -> Updated | None:
        limits = self._limits
        arguments = (
            fresh_gen(),
            change.title or "",
            change.metadata or "",
            limits.idle_ms,
            limits.log_entries_max,
            limits.log_entries_keep,
        )
        keys = (*session_keys(key), sessions_name(key.owner), idle_name(key.owner))
        return updated_of(key.session, await self._calls.one(scripts.UPDATE.command(keys, arguments)))

    async def delete_session(self, key: SessionKey, nonce: str) -> Deleted | None:
        """A cancel of its turns is answered already_done from then on."""
        keys = (*session_keys(key), sessions_name(key.owner), idle_name(key.owner))
        arguments = (fresh_gen(), self._limits.deleted_ms, nonce)
        return deleted_of(await self._calls.one(scripts.DELETE.command(keys, arguments)))

    async def forget_owner(self, owner: str) -> bool:
        return await self._calls.one(("UNLINK", *beside_sessions(owner))) > 0

    async def expire_sessions(self, count_max: int) -> int:
        """Remove sessions that were idle for too long; how many there were. The sweep calls it now and then."""
        removed = 0
        for member in await self._due(idle_indexes(), count_max):
            key = session_of_member(member)
            keys = (*session_keys(key), sessions_name(key.owner), idle_name(key.owner))
            removed += await self._calls.one(scripts.EXPIRE.command(keys, (fresh_gen(), self._limits.idle_ms)))
        return removed

    # --- reading --------------------------------------------------------------------------------------------------

    async def read_view(self, key: SessionKey, history: int) -> SessionView:
        return await self._sessions.read_view(key, history)

    async def read_range(self, key: SessionKey, after_seq: int, count_max: int) -> LogRange:
        return await self._sessions.read_range(key, after_seq, count_max)

    async def read_branch(self, key: TurnKey, count_max: int) -> Sequence[StoredTurn]:
        return await self._sessions.read_branch(key, count_max)

    async def read_turns(self, key: SessionKey, before: str | None, count_max: int) -> TurnPage | None:
        return await self._sessions.read_turns(key, before, count_max)

    async def read_answers(self, key: TurnKey) -> Mapping[str, bytes]:
        return await self._sessions.read_answers(key)

    async def list_sessions(self, owner: str, before: ListPlace | None, count_max: int) -> SessionPage:
        return await self._sessions.list_sessions(owner, before, count_max)

    async def read_session(self, key: SessionKey) -> SessionInfo | None:
        return await self._sessions.read_session(key)

    # --- following ------------------------------------------------------------------------------------------------

    async def watch(self, key: SessionKey) -> None:
        await self._nudges.watch(key)

    async def unwatch(self, key: SessionKey) -> None:
        await self._nudges.unwatch(key)

    async def note_watched(self, keys: Sequence[SessionKey]) -> Sequence[LogRange]:
        gen = fresh_gen()
        places: list[LogRange] = []
        for start in range(0, len(keys), PIPELINE_MAX):
            some = keys[start : start + PIPELINE_MAX]
            replies = await self._calls.run(
                [scripts.LOOK_AT.command(session_keys(key), (gen, "watched")) for key in some]
            )
            for reply in replies:
                if is_no_answer(reply):
                    raise failure_of(reply)
                places.append(range_of(reply, 0, ()))
        return places

    def nudges(self) -> AsyncIterator[Nudge]:
        return self._nudges.nudges()

    # --- within ---------------------------------------------------------------------------------------------------

    async def _due(self, indexes: Sequence[str], count_max: int) -> list[bytes]:
        """Members that are due, the longest overdue first."""
        flat = await self._calls.one(scripts.LIST_DUE.command(indexes, (count_max,)))
        due = sorted(zip(flat[1::2], flat[::2], strict=True), key=lambda found: float(found[0]))
        return [member for _, member in due[:count_max]]
