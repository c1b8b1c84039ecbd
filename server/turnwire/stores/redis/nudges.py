"""The node's subscriptions: sessions that grew or were deleted, and turns of this node that are to stop.

One connection, kept by a task of its own that connects again after each loss, subscribes again and says `reset`. What
is published may be lost, so it carries almost nothing: whoever is nudged reads the log. Nudges of one session that
were not read yet are one nudge, the newest; so what waits here is bounded by what is watched. A deletion is always the
newest, because its session's name stays taken.

Nothing is done per message but to keep its bytes: this node hears all that it appends itself, too.
"""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final

import structlog

from turnwire.ports import Failure, Nudge, SessionKey
from turnwire.stores.redis.keys import node_channel, session_name, turn_of_member
from turnwire.stores.redis.link import Link
from turnwire.stores.redis.wire import LOST, Wire

CANCELS_MAX: Final = 10_000
"""Cancels that wait to be read. One that is dropped is found at the next renewal of its lease."""

PING_MS: Final = 5_000
BACKOFF_MS: Final = (20, 50, 100, 200, 500, 1_000)
SUBSCRIBE_AT_ONCE: Final = 500
READY_WAIT_MS: Final = 2_000
"""How long `watch` waits for a connection that is being made."""

_log = structlog.get_logger(__name__)


class NudgeReader:
    """Started and stopped with `open` and `aclose`."""

    def __init__(self, link: Link, node: str) -> None:
        self._link = link
        self._node_channel = node_channel(node).encode()
        self._channels: dict[bytes, SessionKey] = {}
        self._grown: dict[bytes, bytes] = {}
        self._cancels: deque[bytes] = deque(maxlen=CANCELS_MAX)
        self._reset = False
        self._wake = asyncio.Event()
        self._wire: Wire | None = None
        self._ready = asyncio.Event()
        self._lost = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._fault: BaseException | None = None

    async def open(self) -> None:
        """Connect and subscribe. Raises Failure when the store does not answer."""
        await self._subscribe_all()
        self._keeping = self.supervised(asyncio.create_task(self._keep(), name="nudges"))

    async def aclose(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        if self._wire is not None:
            self._wire.close()

    def supervised(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        """Let the fault of a task that is to run for ever come out of `nudges`, whose reader ends the node with it."""

        def on_done(done: asyncio.Task[None]) -> None:
            if not done.cancelled() and (error := done.exception()) is not None:
                self._fault = error
                self._wake.set()

        task.add_done_callback(on_done)
        return task

    @property
    def subscribed(self) -> bool:
        """Whether nudges come, as far as is known."""
        return self._ready.is_set()

    async def watch(self, key: SessionKey) -> None:
        """In force when this returns. Raises Failure("store_away") when it could not be made so."""
        name = session_name(key)
        self._channels[name.encode()] = key
        try:
            wire = await self._ready_wire()
            wire.send([("SUBSCRIBE", name)])
            # Replies come in order, so the answer to this says that the subscription holds.
            if (await wire.call([("PING",)]))[0] is LOST:
                raise Failure("store_away", "the connection was lost while subscribing")
        except BaseException:
            await self.unwatch(key)
            raise

    async def unwatch(self, key: SessionKey) -> None:
        name = session_name(key)
        self._channels.pop(name.encode(), None)
        self._grown.pop(name.encode(), None)
        if self._wire is not None:
            self._wire.send([("UNSUBSCRIBE", name)])

    async def nudges(self) -> AsyncIterator[Nudge]:
        """For one reader. Never ends by itself, but with a fault of ours."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._fault is not None:
                raise self._fault
            if self._reset:
                self._reset = False
                yield Nudge("reset")
            while self._cancels:
                member, _, by = self._cancels.popleft().partition(b" ")
                key = turn_of_member(member)
                yield Nudge("cancel", SessionKey(key.owner, key.session), turn=key.turn, by=by.decode())
            grown, self._grown = self._grown, {}
            for channel, payload in grown.items():
                session = self._channels.get(channel)
                if session is not None:
                    yield _nudge_of(session, payload)

    # --- within ---------------------------------------------------------------------------------------------------

    def _on_push(self, push: list[Any]) -> None:
        if push[0] != b"message":
            return
        if push[1] == self._node_channel:
            self._cancels.append(push[2])
        else:
            self._grown[push[1]] = push[2]
        self._wake.set()

    def _on_lost(self) -> None:
        self._ready.clear()
        self._lost.set()

    async def _ready_wire(self) -> Wire:
        try:
            async with asyncio.timeout(READY_WAIT_MS / 1000):
                await self._ready.wait()
        except TimeoutError as error:
            raise Failure("store_away", "no connection to subscribe by") from error
        assert self._wire is not None  # noqa: S101 - for the type checker: whoever says ready has set it
        return self._wire

    async def _subscribe_all(self) -> None:
        self._lost.clear()
        wire = await self._link.connect("nudges", on_push=self._on_push, on_lost=self._on_lost)
        names = [self._node_channel, *self._channels]
        for start in range(0, len(names), SUBSCRIBE_AT_ONCE):
            wire.send([("SUBSCRIBE", *names[start : start + SUBSCRIBE_AT_ONCE])])
        if (await wire.call([("PING",)]))[0] is LOST:
            raise Failure("store_away", "the connection was lost while subscribing")
        self._wire = wire
        self._ready.set()

    async def _keep(self) -> None:
        """Notice a loss, also of a connection that only looks alive, and connect again."""
        failures = 0
        while True:
            await self._until_lost()
            try:
                await self._subscribe_all()
            except Failure as failure:
                self._lost.set()
                failures += 1
                _log.warning("nudges_away", detail=failure.detail, failures=failures)
                wait_ms = BACKOFF_MS[min(failures, len(BACKOFF_MS)) - 1]
                await asyncio.sleep(wait_ms * random.uniform(0.5, 1) / 1000)  # noqa: S311 - a jitter is no secret
                continue
            failures = 0
            self._reset = True
            self._wake.set()

    async def _until_lost(self) -> None:
        while not self._lost.is_set():
            try:
                async with asyncio.timeout(PING_MS / 1000):
                    await self._lost.wait()
            except TimeoutError:
                if self._wire is not None:
                    await self._wire.call([("PING",)])


def _nudge_of(session: SessionKey, payload: bytes) -> Nudge:
    """`gen head`, `gen head aside` or `gen seq deleted at`; an empty gen when the session expired."""
    gen, head, *more = payload.decode().split(" ")
    if more and more[0] == "deleted":
        return Nudge("deleted", session, gen, int(head), at=int(more[1]))
    return Nudge("grown", session, gen, int(head), aside=bool(more))
