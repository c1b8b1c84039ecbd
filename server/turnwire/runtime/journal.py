"""All appends of this node: one pipeline in flight, deltas merge while they wait.

Each running turn has a Writer. Entries gather in it while its batch is out; when the pipeline comes back, every writer
that has something gives one frozen batch, and the next pipeline leaves. So an idle node appends a delta at once, and a
loaded one appends more of them at a time without any timer. Terminals leave in pipelines of their own: the store may
have to wait for its replicas there, and no running answer waits with it.

Nothing is shown to anyone before the store's answer: the hub is fed from here, after it.

A store that was restarted or failed over may have lost the newest it was given. Each running writer learns so from its
next append and puts back what is missing; those that have ended stay here for a while, in case that it is their end
that was lost. A turn that the store does not know any more is accepted again first, as what it is: a running turn.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

import structlog

from turnwire.core.entries import Entry, Event, Logged
from turnwire.ports import AcceptRequest, Appended, Batch, Clock, Failure, SessionKey, SessionLog, TurnKey
from turnwire.runtime.writer import Writer

BATCHES_MAX: Final = 256
"""Batches in one pipeline, so that a loaded node's pipelines stay short enough to keep latency even."""

BACKOFF_MS: Final = (20, 50, 100, 200, 500, 1_000)

LINGER_MS: Final = 60_000
"""How long an ended writer is kept. Of a store that loses more than this, the sweep ends the turn anew."""
LINGER_WRITERS_MAX: Final = 4_096
LINGER_CHARS_MAX: Final = 64 * 1024 * 1024
"""What all ended writers together may hold, in characters; the oldest go first."""

Feed = Callable[[SessionKey, str, Sequence[Logged]], None]
"""Told what was appended: session, gen, entries in order."""

_log = structlog.get_logger(__name__)


class Journal:
    """Collects what the writers have and appends it.

    `look_at` is told of a turn that stands in the way of one that is put back: if nobody has its end any more, somebody
    has to write one. `grace_ms` is how long a producer goes on while the store does not answer.
    """

    def __init__(
        self, log: SessionLog, feed: Feed, look_at: Callable[[TurnKey], Awaitable[None]], clock: Clock, *, grace_ms: int
    ) -> None:
        self._log = log
        self._feed = feed
        self._look_at = look_at
        self._clock = clock
        self._grace_ms = grace_ms
        self._seals = _Pipeline(log.seal_many, self._settle)
        self._appends = _Pipeline(log.append_many, self._settle, seals=self._seals)
        self._putting_back: set[asyncio.Task[None]] = set()
        self._lingering: OrderedDict[Writer, tuple[int, int]] = OrderedDict()
        """Ended writers: since when (ms), and what they hold (characters)."""
        self._lingering_chars = 0

    def writer(self, request: AcceptRequest, nonce: str, written: Sequence[Entry] = ()) -> Writer:
        """A writer for a turn whose lease is `nonce`'s; `written` is in already."""
        return Writer(request, nonce, written=written, grace_ms=self._grace_ms, want=self._appends.want)

    async def run(self) -> None:
        """Append until cancelled. Cancel it only when no writer has anything to send."""
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._appends.run(), name="appends")
                both.create_task(self._seals.run(), name="seals")
        finally:
            for task in self._putting_back:
                task.cancel()
            await asyncio.gather(*self._putting_back, return_exceptions=True)

    # --- one batch ------------------------------------------------------------------------------------------------

    def _settle(self, writer: Writer, batch: Batch, answer: Appended) -> None:
        """Tell a writer, and the hub, what became of its batch."""
        if writer.was_lost(answer) and writer.can_be_put_back:
            self.put_back(writer)
            return
        writer.settle(batch, answer, self._clock.monotonic_ms())
        if answer.result in ("ok", "dup"):
            self._feed(batch.key.session_key, answer.gen, logged_entries(batch.entries, answer))
            if batch.seal is not None or batch.park_until_ms is not None:
                self._linger(writer)
        elif answer.result == "regressed":
            _log.warning("put_back_from", turn=batch.key.turn, seq=answer.counter)
        if writer.waiting:
            self._appends.want(writer)

    # --- what the store lost --------------------------------------------------------------------------------------

    def put_back(self, writer: Writer) -> None:
        """The store does not know the turn (any more): accept it again, and append all of it."""
        writer.rest()
        task = asyncio.create_task(self._accept_again(writer), name=f"put back {writer.key.turn}")
        self._putting_back.add(task)
        task.add_done_callback(self._putting_back.discard)

    async def _accept_again(self, writer: Writer) -> None:
        """Until the store takes it. Another turn may stand in its place whose end was lost, too: that one's writer, or
        the sweep, ends it within the grace. And one before it may be missing, whose writer comes while the store is
        recovering or not at all."""
        request = replace(writer.request, nonce=writer.nonce, on_busy="reject", put_back=True)
        since_ms, tries = self._clock.monotonic_ms(), 0
        while True:
            result = "away"
            if not self._log.recovering:
                request = replace(request, predecessor=None)
            try:
                accepted = await self._log.accept_turn(request)
            except Failure as failure:
                _log.info("put_back_waits", turn=writer.key.turn, kind=failure.kind)
            else:
                result = accepted.result
                if result == "running":
                    _log.warning("put_back", turn=writer.key.turn)
                    self._feed(writer.key.session_key, accepted.gen, accepted.logged)
                    writer.resume()
                    return
                if result == "busy" and accepted.active is not None:
                    await self._look_at(writer.key.session_key.turn(accepted.active))
            if result not in ("away", "busy", "too_early") or self._clock.monotonic_ms() - since_ms > self._grace_ms:
                _log.warning("not_put_back", turn=writer.key.turn, why=result)
                writer.leave("gone" if result == "deleted" else "lost")
                return
            tries += 1
            await asyncio.sleep(BACKOFF_MS[min(tries, len(BACKOFF_MS)) - 1] / 1000)

    def lingering(self) -> Sequence[Writer]:
        """Writers that ended lately, for somebody to ask the store whether it still has their ends."""
        self._drop_old()
        return list(self._lingering)

    def forget(self, writer: Writer) -> None:
        """It need not be asked about (any more)."""
        _, chars = self._lingering.pop(writer, (0, 0))
        self._lingering_chars -= chars

    def forget_session(self, key: SessionKey) -> None:
        """It was deleted: nothing of it is to rise again, should the store lose that too."""
        for writer in [writer for writer in self._lingering if writer.key.session_key == key]:
            self.forget(writer)

    def _linger(self, writer: Writer) -> None:
        self.forget(writer)
        chars = writer.weight
        self._lingering[writer] = (self._clock.monotonic_ms(), chars)
        self._lingering_chars += chars
        self._drop_old()

    def _drop_old(self) -> None:
        oldest_ms = self._clock.monotonic_ms() - LINGER_MS
        while self._lingering:
            writer, (since_ms, _) = next(iter(self._lingering.items()))
            small = len(self._lingering) <= LINGER_WRITERS_MAX and self._lingering_chars <= LINGER_CHARS_MAX
            if small and since_ms >= oldest_ms:
                return
            self.forget(writer)


class _Pipeline:
    """Sends what its writers have, one pipeline at a time. A writer whose next batch is a terminal is passed on to
    `seals`, where there is one."""

    def __init__(
        self,
        send: Callable[[Sequence[Batch]], Awaitable[Sequence[Appended]]],
        settle: Callable[[Writer, Batch, Appended], None],
        *,
        seals: "_Pipeline | None" = None,
    ) -> None:
        self._send = send
        self._settle = settle
        self._seals = seals
        self._wanted: dict[Writer, None] = {}
        self._wake = asyncio.Event()

    def want(self, writer: Writer) -> None:
        self._wanted[writer] = None
        self._wake.set()

    async def run(self) -> None:
        failures = 0
        while True:
            await self._wake.wait()
            self._wake.clear()
            batches = self._next_batches()
            if not batches:
                continue
            away = await self._append(batches)
            if self._wanted:
                self._wake.set()
            failures = failures + 1 if away else 0
            if away:
                await asyncio.sleep(BACKOFF_MS[min(failures, len(BACKOFF_MS)) - 1] / 1000)

    def _next_batches(self) -> list[tuple[Writer, Batch]]:
        """Of those that go into the next pipeline, the ones that have waited longest first."""
        chosen: list[tuple[Writer, Batch]] = []
        for writer in list(self._wanted):
            if len(chosen) == BATCHES_MAX:
                break
            del self._wanted[writer]
            if not writer.waiting:
                continue
            batch = writer.freeze()
            if batch.seal is not None and self._seals is not None:
                self._seals.want(writer)
            else:
                chosen.append((writer, batch))
        return chosen

    async def _append(self, batches: Sequence[tuple[Writer, Batch]]) -> bool:
        """Send one pipeline and settle it. Whether some of it got no definite answer."""
        answers = await self._send([batch for _, batch in batches])
        away = False
        for (writer, batch), answer in zip(batches, answers, strict=True):
            self._settle(writer, batch, answer)
            away = away or answer.result in ("away", "full")
        return away


def logged_entries(entries: Sequence[Entry], answer: Appended) -> list[Logged]:
    """The entries at the places that the store gave them."""
    logged: list[Logged] = []
    for seq, entry in enumerate(entries, answer.first_seq):
        if isinstance(entry, Event):
            entry.at = answer.at
        logged.append(Logged(seq, seq, entry))
    return logged
