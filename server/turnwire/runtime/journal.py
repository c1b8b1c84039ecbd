"""All appends of this node: one pipeline in flight, deltas merge while they wait.

Each running turn has a Writer. Entries gather in it while its batch is out; when the pipeline comes back, every writer
that has something gives one frozen batch, and the next pipeline leaves. So an idle node appends a delta at once, and a
loaded one appends more of them at a time without any timer.

A batch is frozen: until the store has given a definite answer it is sent again as it was, under its name, so that an
append whose reply was lost is found to be in already. Nothing is shown to anyone before that answer: the hub is fed
from here, after it.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from turnwire.core.entries import Delta, Entry, Event, Logged
from turnwire.core.merge import join, may_join
from turnwire.ports import Appended, Batch, Clock, Seal, SessionKey, SessionLog, TurnKey

BATCHES_MAX: Final = 256
"""Batches in one pipeline, so that a loaded node's pipelines stay short enough to keep latency even."""

ENTRIES_MAX: Final = 512
"""Entries in one batch, so that one turn cannot make a script long."""

PENDING_CHARS_MAX: Final = 262_144
"""What one writer may hold before its producer has to wait."""

BACKOFF_MS: Final = (20, 50, 100, 200, 500, 1_000)

Stopped = Literal["cancel", "fenced", "sealed", "gone", "lost", "full", "store_away"]
"""Why a producer should stop: a stored cancel, or the log does not take its entries (any more)."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The last batch of a writer: its terminal, or the asks that it parks with."""

    entries: Sequence[Entry]
    seal: Seal | None = None
    park_until_ms: int | None = None


Feed = Callable[[SessionKey, str, Sequence[Logged]], None]
"""Told what was appended: session, gen, entries in order."""


class Writer:
    """One turn's way into the log. `stopped` resolves once, when its producer should stop."""

    def __init__(self, journal: "Journal", key: TurnKey, nonce: str, counter: int) -> None:
        self.key = key
        self.nonce = nonce
        self.stopped: asyncio.Future[tuple[Stopped, str]] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        """The definite answer to the ending."""
        self._journal = journal
        self._counter = counter
        self._name = secrets.token_urlsafe(9)
        """Begins the names of this writer's batches, which no other writer's may equal."""
        self._batches = 0
        self._pending: deque[Entry] = deque()
        self._pending_chars = 0
        self._frozen: Batch | None = None
        self._ending: Ending | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._away_since_ms: int | None = None
        self._full = False

    # --- for the producer -----------------------------------------------------------------------------------------

    def append(self, entry: Entry) -> None:
        """Take an entry; a delta joins the one before it if that still waits. Never blocks: see `room`."""
        if self.ended.done():
            return
        pending = self._pending
        if isinstance(entry, Delta):
            self._pending_chars += len(entry.text)
            newest = pending[-1] if pending else None
            if isinstance(newest, Delta) and may_join(newest, entry):
                pending[-1] = join(newest, entry)
            else:
                pending.append(entry)
        else:
            pending.append(entry)
        if self._pending_chars > PENDING_CHARS_MAX:
            self._room.clear()
        self._journal.want(self)

    async def room(self) -> None:
        """Wait while the journal is behind."""
        await self._room.wait()

    async def end(self, ending: Ending) -> Appended:
        """Append the last entries of this writer and wait for the store's definite answer, however long that takes."""
        self._ending = ending
        self._journal.want(self)
        return await asyncio.shield(self.ended)

    def tell(self, why: Stopped, by: str = "") -> None:
        """Tell the producer to stop; the first reason stands."""
        if not self.stopped.done():
            self.stopped.set_result((why, by))

    # --- for the journal ------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """Whether there is something to send."""
        return not self.ended.done() and (self._frozen is not None or bool(self._pending) or self._ending is not None)

    def freeze(self) -> Batch:
        """The batch to send now: the same one until it is settled."""
        if self._frozen is None:
            # What is left of a turn that a full store made end must go with its seal, however much it is.
            entries_max = len(self._pending) if self._full else ENTRIES_MAX
            entries = [self._pending.popleft() for _ in range(min(len(self._pending), entries_max))]
            self._pending_chars = sum(len(entry.text) for entry in self._pending if isinstance(entry, Delta))
            ending = self._ending if not self._pending else None
            self._batches += 1
            if ending is not None:
                entries.extend(ending.entries)
            self._frozen = Batch(
                self.key,
                self.nonce,
                f"{self._name}{self._batches}",
                self._counter,
                entries,
                None if ending is None else ending.seal,
                None if ending is None else ending.park_until_ms,
            )
            if self._pending_chars <= PENDING_CHARS_MAX:
                self._room.set()
        return self._frozen

    def settle(self, batch: Batch, answer: Appended, now_ms: int) -> None:
        """What became of the frozen batch."""
        result = answer.result
        if result == "away" or result == "full":
            self._hold(answer, now_ms)
            return
        self._away_since_ms = None
        self._frozen = None
        if result == "ok" or result == "dup":
            self._counter += len(batch.entries)
            if answer.cancel_by is not None:
                self.tell("cancel", answer.cancel_by)
            if batch.seal is not None or batch.park_until_ms is not None:
                self.ended.set_result(answer)
            return
        # Not this writer's log any more, or not the history that it wrote.
        self._pending.clear()
        self._room.set()
        self.tell("lost" if result == "regressed" else result)
        self.ended.set_result(answer)

    def _hold(self, answer: Appended, now_ms: int) -> None:
        """The store took nothing, or nobody knows whether it did: the batch goes out again."""
        if self._away_since_ms is None:
            self._away_since_ms = now_ms
        if answer.result == "away":
            if now_ms - self._away_since_ms > self._journal.grace_ms:
                self.tell("store_away")
            return
        self._full = True
        self.tell("full")
        batch = self._frozen
        if batch is not None and batch.seal is None and batch.park_until_ms is None:
            # It was refused as a whole, so its entries may go into the one batch that gets through: the seal's.
            self._pending.extendleft(reversed(batch.entries))
            self._frozen = None


class Journal:
    """Collects what the writers have and appends it, one pipeline at a time.

    `grace_ms` is how long a producer goes on while the store does not answer.
    """

    def __init__(self, log: SessionLog, feed: Feed, clock: Clock, *, grace_ms: int) -> None:
        self.grace_ms = grace_ms
        self._log = log
        self._feed = feed
        self._clock = clock
        self._wanted: dict[Writer, None] = {}
        self._wake = asyncio.Event()

    def writer(self, key: TurnKey, nonce: str, counter: int) -> Writer:
        """A writer for a turn whose lease is `nonce`'s; `counter` entries are in already."""
        return Writer(self, key, nonce, counter)

    def want(self, writer: Writer) -> None:
        self._wanted[writer] = None
        self._wake.set()

    async def run(self) -> None:
        """Append until cancelled. Cancel it only when no writer has anything to send: a task that is cancelled inside
        a call to the store leaves the connection with a reply that nobody reads."""
        failures = 0
        while True:
            await self._wake.wait()
            self._wake.clear()
            batches = [(writer, writer.freeze()) for writer in self._next_writers()]
            if not batches:
                continue
            away = await self._append(batches)
            if self._wanted:
                self._wake.set()
            failures = failures + 1 if away else 0
            if away:
                await asyncio.sleep(BACKOFF_MS[min(failures, len(BACKOFF_MS)) - 1] / 1000)

    def _next_writers(self) -> list[Writer]:
        """Those that go into the next pipeline, the ones that have waited longest first."""
        chosen: list[Writer] = []
        for writer in list(self._wanted):
            if len(chosen) == BATCHES_MAX:
                break
            del self._wanted[writer]
            if writer.waiting:
                chosen.append(writer)
        return chosen

    async def _append(self, batches: Sequence[tuple[Writer, Batch]]) -> bool:
        """Send one pipeline and settle it. Whether some of it got no definite answer."""
        answers = await self._log.append_many([batch for _, batch in batches])
        now_ms = self._clock.monotonic_ms()
        away = False
        for (writer, batch), answer in zip(batches, answers, strict=True):
            writer.settle(batch, answer, now_ms)
            if answer.result in ("ok", "dup"):
                self._feed(batch.key.session_key, answer.gen, logged_entries(batch.entries, answer))
            away = away or answer.result in ("away", "full")
            if writer.waiting:
                self.want(writer)
        return away


def logged_entries(entries: Sequence[Entry], answer: Appended) -> list[Logged]:
    """The entries at the places that the store gave them."""
    logged: list[Logged] = []
    for seq, entry in enumerate(entries, answer.first_seq):
        if isinstance(entry, Event):
            entry.at = answer.at
        logged.append(Logged(seq, seq, entry))
    return logged
