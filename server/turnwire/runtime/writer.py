"""One turn's way into the log: what is in, what is on its way, what waits.

A batch is frozen: until the store has given a definite answer it is sent again as it was, under its name, so that an
append whose reply was lost is found to be in already.

What is in stays in memory, for as long as the turn runs and for a while after its end: a store that was restarted or
failed over may have lost the newest of it, and only its writer can put that back. The store says how much it still has
(`regressed`), or that it knows nothing of the turn (`lost`); everything behind that waits anew, in front of what has
not been sent yet.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from turnwire.core.entries import Delta, Entry, Event
from turnwire.core.merge import join, may_join, merge
from turnwire.core.quotas import Used
from turnwire.ports import AcceptRequest, Appended, Batch, Renewed, Seal, TurnKey

ENTRIES_MAX: Final = 512
"""Entries in one batch, so that one turn cannot make a script long."""

PENDING_CHARS_MAX: Final = 262_144
"""What one writer may hold before its producer has to wait."""

Stopped = Literal["cancel", "hung", "draining", "fenced", "sealed", "gone", "lost", "full", "store_away"]
"""Why a producer should stop: a stored cancel, its own deadlines, a node that goes down, or a log that does not take
its entries."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The last batch of a writer: its terminal, or the asks that it parks with."""

    entries: Sequence[Entry]
    seal: Seal | None = None
    park_until_ms: int | None = None


class Writer:
    """`stopped` resolves once, when its producer should stop; `ended` with the definite answer to the ending.

    `request` is what the turn was accepted by, for a store that has lost it. `written` are the entries that the turn's
    writers have appended before this one. `want` is called when there is something to send.
    """

    def __init__(
        self,
        request: AcceptRequest,
        nonce: str,
        *,
        written: Sequence[Entry] = (),
        grace_ms: int,
        want: "Callable[[Writer], None]",
    ) -> None:
        self.key: TurnKey = request.key
        self.nonce = nonce
        self.request = request
        self.stopped: asyncio.Future[tuple[Stopped, str]] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self.used_up: Used | None = None
        """What the turn has used, once this writer has ended it."""
        self.hung_at_ms: int | None = None
        """When its producer must have come further, on the monotonic clock, or it hangs; None: it cannot."""
        self._grace_ms = grace_ms
        self._want = want
        self._written: list[Entry] = list(written)
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
        self._over = False
        """Nothing is to be sent any more, unless the store has lost something."""
        self._ending_is_in = False
        """Whether `written` ends with it."""
        self._resting = False
        self._probing = False

    # --- for the producer -----------------------------------------------------------------------------------------

    def append(self, entry: Entry) -> None:
        """Take an entry; a delta joins the one before it if that still waits. Never blocks: see `room`."""
        if self._ending is not None or self.ended.done():
            return
        pending = self._pending
        if isinstance(entry, Delta):
            self._pending_chars += _chars_of(entry)
            newest = pending[-1] if pending else None
            if isinstance(newest, Delta) and may_join(newest, entry):
                pending[-1] = join(newest, entry)
            else:
                pending.append(entry)
        else:
            pending.append(entry)
        if self._pending_chars > PENDING_CHARS_MAX:
            self._room.clear()
        self._want(self)

    async def room(self) -> None:
        """Wait while the journal is behind."""
        await self._room.wait()

    async def end(self, ending: Ending) -> Appended:
        """Append the last entries of this writer and wait for the store's definite answer, however long that takes."""
        self.hung_at_ms = None
        self.used_up = None if ending.seal is None else ending.seal.used
        self._ending = ending
        self._want(self)
        return await asyncio.shield(self.ended)

    def tell(self, why: Stopped, by: str = "") -> None:
        """Tell the producer to stop; the first reason stands."""
        if not self.stopped.done():
            self.stopped.set_result((why, by))

    def waits_for_store(self, now_ms: int) -> bool:
        """Whether the producer may still wait for a store that does not answer it just now. Begins the grace."""
        if self._away_since_ms is None:
            self._away_since_ms = now_ms
        return now_ms - self._away_since_ms <= self._grace_ms

    def hangs(self, now_ms: int) -> bool:
        """Whether its producer is beyond all its own deadlines: its lease is left to run out."""
        return self.hung_at_ms is not None and now_ms > self.hung_at_ms

    # --- for the journal ------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """Whether there is something to send."""
        if self._over or self._resting:
            return False
        return self._frozen is not None or bool(self._pending) or self._ending is not None or self._probing

    @property
    def can_be_put_back(self) -> bool:
        """A turn that has asked is not: the answers to its asks, which are not this writer's, would be missing."""
        return not any(isinstance(entry, Event) and entry.type == "turn.asked" for entry in self._written)

    def was_lost(self, answer: Appended | Renewed) -> bool:
        """Whether the store has lost the turn, or that this writer took it: then it is to be put back."""
        if answer.result == "fenced":
            return answer.holder is not None and answer.holder == self.request.taken_from
        return answer.result == "lost"

    @property
    def weight(self) -> int:
        """Characters and bytes that it keeps."""
        written = sum(_chars_of(entry) if isinstance(entry, Delta) else len(entry.body) for entry in self._written)
        return written + len(self.request.spec) + len(self.request.body)

    def freeze(self) -> Batch:
        """The batch to send now: the same one until it is settled."""
        self._probing = False
        if self._frozen is None:
            # What is left of a turn that a full store made end must go with its seal, however much it is.
            entries_max = len(self._pending) if self._full else ENTRIES_MAX
            entries = [self._pending.popleft() for _ in range(min(len(self._pending), entries_max))]
            self._pending_chars = sum(_chars_of(entry) for entry in self._pending if isinstance(entry, Delta))
            ending = self._ending if not self._pending else None
            self._batches += 1
            if ending is not None:
                entries.extend(ending.entries)
            self._frozen = Batch(
                self.key,
                self.nonce,
                f"{self._name}{self._batches}",
                len(self._written),
                entries,
                None if ending is None else ending.seal,
                None if ending is None else ending.park_until_ms,
            )
            if self._pending_chars <= PENDING_CHARS_MAX:
                self._room.set()
        return self._frozen

    def settle(self, batch: Batch, answer: Appended, now_ms: int) -> None:
        """What became of the frozen batch."""
        match answer.result:
            case "away" | "full":
                self._hold(batch, answer, now_ms)
            case "ok" | "dup":
                self._away_since_ms = None
                self._frozen = None
                self._written.extend(batch.entries)
                if answer.cancel_by is not None:
                    self.tell("cancel", answer.cancel_by)
                if self._ends(batch):
                    self._ending_is_in = True
                    self._end_with(answer)
            case "regressed" if answer.counter < len(self._written):
                self._away_since_ms = None
                self.rewind(answer.counter)
            case "regressed":  # it has more than was ever written: somebody else's work
                self.leave("fenced")
            case why:
                self.leave(why, answer)

    def rewind(self, counter: int) -> None:
        """The store has only the first `counter` of what was written: all behind them waits again."""
        again = self._written[counter:]
        del self._written[counter:]
        ending = () if self._ending is None else self._ending.entries
        if self._ending_is_in:  # it goes out as the last batch again
            del again[len(again) - len(ending) :]
            self._ending_is_in = False
        if self._frozen is not None:
            entries = self._frozen.entries
            again += entries[: len(entries) - len(ending)] if self._ends(self._frozen) else entries
        again += self._pending
        self._frozen = None
        self._pending = deque(merge(again))
        self._pending_chars = sum(_chars_of(entry) for entry in again if isinstance(entry, Delta))
        self._over = False
        self._want(self)

    def probe(self) -> None:
        """Send something, be it an empty batch: the store's answer says what it lacks."""
        self._over = False
        self._probing = True
        self._want(self)

    def rest(self) -> None:
        """Send nothing until `resume`."""
        self._resting = True

    def resume(self) -> None:
        self._resting = False
        self.probe()

    def leave(self, why: Stopped, answer: Appended | None = None) -> None:
        """It is not this writer's log any more, or nobody's: nothing of it is sent again."""
        self._frozen = None
        self._resting = False
        self._pending.clear()
        self._room.set()
        self.tell(why)
        self._end_with(answer or Appended("lost"))

    def _end_with(self, answer: Appended) -> None:
        self._over = True
        if not self.ended.done():
            self.ended.set_result(answer)

    def _ends(self, batch: Batch) -> bool:
        return batch.seal is not None or batch.park_until_ms is not None

    def _hold(self, batch: Batch, answer: Appended, now_ms: int) -> None:
        """The store took nothing, or nobody knows whether it did: the batch goes out again."""
        if answer.result == "away":
            if not self.waits_for_store(now_ms):
                self.tell("store_away")
            return
        self._full = True
        self.tell("full")
        if not self._ends(batch):
            # It was refused as a whole, so its entries may go into the one batch that gets through: the seal's.
            self._pending.extendleft(reversed(batch.entries))
            self._frozen = None


def _chars_of(delta: Delta) -> int:
    return len(delta.text) if delta.opaque is None else len(delta.text) + len(delta.opaque)
