"""Frames of a session to its local cursors; the only reader of the log, live or replayed.

Each session that somebody here watches has one Feed: the newest entries in memory and the cursors that stand on it.
The feed grows from this node's own appends, and from what is read after a nudge. A nudge may be lost and an append may
be another node's, so a feed takes only what continues it, reads whatever is missing from the log, one read at a time,
and asks the log every few seconds where it stands.

A feed never shows two generations as one: when the gen is another, it starts anew and its cursors take a snapshot. When
the store has just lost its newest writes, a feed that knows of more than the log has waits a moment before it does: the
writers put back what they have, and nobody is to be told that an answer is lost while it is on its way.

A deletion takes the log with it, so its `session.deleted` comes by nudge alone, and only a feed that has all before it
can show it: any other starts anew as a session that is not there.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol
from weakref import WeakValueDictionary

import structlog

from turnwire.core.entries import Event, Logged
from turnwire.core.framing import encode_logged
from turnwire.core.replay import Window
from turnwire.ports import Failure, LogRange, SessionKey, SessionLog, TurnKey
from turnwire_protocol.codec import Codec

WINDOW_ENTRIES_MAX: Final = 1_000
WINDOW_CHARS_MAX: Final = 262_144
READ_ENTRIES_MAX: Final = 2_000
SETTLE_LOOK_MS: Final = 200
"""How often somebody who waits for it looks whether what the log lost was put back."""
ENCODED_MAX: Final = 128
"""Encoded frames kept for the other viewers of a session."""

_log = structlog.get_logger(__name__)


class Reader(Protocol):
    """A cursor on a feed."""

    def wake(self) -> None:
        """The feed has grown or has another gen. Must return at once."""
        ...


class Feed:
    """One session as this node knows it. `gen` None: the session has no turn (any more).

    `deleted`: session.deleted is its newest entry. The gen stays, for the cursors that are still to be sent that.
    """

    def __init__(self, key: SessionKey, gen: str | None, head: int) -> None:
        self.key = key
        self.gen = gen
        self.readers: set[Reader] = set()
        self.deleted = False
        self._end: Logged | None = None
        self._window = _window(head)
        self._encoded: dict[tuple[str, int, int], bytes] = {}
        self.reading: asyncio.Task[None] | None = None

    @property
    def tail(self) -> int:
        return self._window.tail

    def after(self, seq: int) -> Sequence[Logged] | None:
        """Entries past `seq` from memory; None: read the log."""
        return self._window.after(seq)

    def extend(self, gen: str, logged: Sequence[Logged]) -> bool:
        """Take entries of `gen`; False when some before them are missing."""
        if gen != self.gen:
            self.restart(gen, logged[0].first_seq - 1)
        before = self._window.tail
        whole = self._window.extend(logged)
        self._take_end()
        if self._window.tail != before:
            self._wake()
        return whole

    def end(self, deleted: Logged) -> bool:
        """The session was deleted; False when entries before that are missing. It is shown once they have come."""
        self._end = deleted
        self._take_end()
        if self.deleted:
            self._wake()
        return self.deleted

    def _take_end(self) -> None:
        if self._end is not None and self._end.seq == self._window.tail + 1:
            self._window.extend([self._end])
            self.deleted = True

    def restart(self, gen: str | None, head: int) -> None:
        """Another history: nothing of the old one may be shown any more."""
        self.gen = gen
        self.deleted = False
        self._end = None
        self._window = _window(head)
        self._encoded.clear()
        self._wake()

    def encoded(self, codec: Codec, logged: Logged) -> bytes:
        """The entry's frame, encoded once for all its viewers."""
        if len(self.readers) < 2:
            return encode_logged(codec, self.key.session, logged)
        place = (codec.subprotocol, logged.first_seq, logged.seq)
        data = self._encoded.get(place)
        if data is None:
            data = encode_logged(codec, self.key.session, logged)
            if len(self._encoded) >= ENCODED_MAX:
                del self._encoded[next(iter(self._encoded))]
            self._encoded[place] = data
        return data

    def _wake(self) -> None:
        for reader in self.readers:
            reader.wake()


def _window(head: int) -> Window:
    return Window(head, entries_max=WINDOW_ENTRIES_MAX, chars_max=WINDOW_CHARS_MAX)


class SessionHub:
    """All feeds of a node.

    `on_overdue` is told of turns whose lease ran out; `on_cancel` of cancels that were sent to this node's runners;
    `on_reset` that the connection to the store was lost and made again, `on_deleted` of sessions that are gone.
    """

    def __init__(
        self,
        log: SessionLog,
        *,
        check_ms: int,
        on_overdue: Callable[[TurnKey], Awaitable[None]],
        on_cancel: Callable[[TurnKey, str], None],
        on_reset: Callable[[], None],
        on_deleted: Callable[[SessionKey], None],
        writes: Callable[[SessionKey], bool],
    ) -> None:
        self._log = log
        self._check_ms = check_ms
        self._on_overdue = on_overdue
        self._on_cancel = on_cancel
        self._on_reset = on_reset
        self._on_deleted = on_deleted
        self._writes = writes
        self._feeds: dict[SessionKey, Feed] = {}
        self._changing: WeakValueDictionary[SessionKey, asyncio.Lock] = WeakValueDictionary()
        """Each is there for as long as somebody holds it or waits for it."""

    # --- cursors --------------------------------------------------------------------------------------------------

    async def attach(self, key: SessionKey, reader: Reader) -> Feed:
        """Put a cursor on a session. Nothing that is appended after this returns will be missed."""
        async with self._change(key):
            feed = self._feeds.get(key)
            if feed is None:
                await self._log.watch(key)
                place = (await self._log.note_watched([key]))[0]
                feed = self._feeds[key] = Feed(key, place.gen, place.head)
                if place.overdue is not None:
                    await self._on_overdue(TurnKey(key.owner, key.session, place.overdue))
            feed.readers.add(reader)
            return feed

    async def detach(self, key: SessionKey, reader: Reader) -> None:
        """Take a cursor off; the last one ends the feed."""
        async with self._change(key):
            feed = self._feeds.get(key)
            if feed is None:
                return
            feed.readers.discard(reader)
            if not feed.readers:
                del self._feeds[key]
                await self._log.unwatch(key)

    def _change(self, key: SessionKey) -> asyncio.Lock:
        """One change of a session's subscription at a time: the last of several must be the one that holds."""
        return self._changing.setdefault(key, asyncio.Lock())

    async def read(self, key: SessionKey, after_seq: int) -> LogRange:
        """Entries past a cursor that its feed's memory does not reach."""
        return await self._log.read_range(key, after_seq, READ_ENTRIES_MAX)

    async def place(self, key: SessionKey, seq: int) -> LogRange:
        """What the log says of a cursor's place, once it has, or is not to get back, what the cursor has seen."""
        while True:
            place = await self._log.read_range(key, seq, 1)
            if place.head >= seq or not self._log.unsettled:
                return place
            await asyncio.sleep(SETTLE_LOOK_MS / 1000)

    async def is_back(self, key: SessionKey) -> None:
        """Wait until all that was shown of a session here is in the log, or is not to come back."""
        feed = self._feeds.get(key)
        if feed is not None and not feed.deleted and self._log.unsettled:
            await self.place(key, feed.tail)

    async def has(self, key: TurnKey) -> bool:
        """Whether the log has a turn, once it has, or is not to get back, what it may have lost."""
        while True:
            found = bool(await self._log.read_branch(key, 1))
            if found or not self._log.unsettled:
                return found
            await asyncio.sleep(SETTLE_LOOK_MS / 1000)

    # --- growth ---------------------------------------------------------------------------------------------------

    def feed(self, key: SessionKey, gen: str, logged: Sequence[Logged]) -> None:
        """What this node has appended, in order."""
        feed = self._feeds.get(key)
        if feed is None or not logged:
            return
        # What is put back first is not all that was lost: readers wait for the rest as for any other's work.
        put_back = gen != feed.gen and logged[-1].seq < feed.tail and self._log.unsettled
        if put_back or not feed.extend(gen, logged):
            self.catch_up(feed)

    def end(self, key: SessionKey, gen: str, seq: int, at: int) -> None:
        """The session was deleted; its `session.deleted` is the entry at `seq`. Twice is as good as once."""
        self._on_deleted(key)
        feed = self._feeds.get(key)
        if feed is None:
            return
        if feed.gen != gen:
            feed.restart(None, 0)
        elif not feed.end(Logged(seq, seq, Event("session.deleted", None, b"{}", at=at))) and not self._writes(key):
            # What is missing may be on its way, from a read or from this node's own appends; else it is gone.
            self.catch_up(feed)

    async def follow_nudges(self) -> None:
        """Act on nudges, for ever."""
        async for nudge in self._log.nudges():
            if nudge.key is None:  # a reset
                self._on_reset()
                for feed in self._feeds.values():
                    self.catch_up(feed)
            elif nudge.kind == "cancel":
                self._on_cancel(nudge.key.turn(nudge.turn), nudge.by)
            elif nudge.kind == "deleted":
                self.end(nudge.key, nudge.gen, nudge.head, nudge.at)
            elif nudge.kind == "grown":
                feed = self._feeds.get(nudge.key)
                # A node that writes the session is fed by its own appends, whose nudges overtake their replies.
                known_here = not nudge.aside and self._writes(nudge.key)
                if feed is not None and not known_here and _is_behind(feed, nudge.gen, nudge.head):
                    self.catch_up(feed)

    async def check_forever(self) -> None:
        """Every `check_ms`, ask the log where the watched sessions stand: whatever nudge was lost is made up here."""
        while True:
            await asyncio.sleep(self._check_ms / 1000)
            keys = list(self._feeds)
            try:
                places = await self._log.note_watched(keys) if keys else ()
            except Failure as failure:
                _log.warning("hub_check_failed", kind=failure.kind, sessions=len(keys))
                continue
            for key, place in zip(keys, places, strict=True):
                feed = self._feeds.get(key)
                if feed is not None and _is_behind(feed, place.gen, place.head):
                    self.catch_up(feed)
                if place.overdue is not None:
                    await self._on_overdue(TurnKey(key.owner, key.session, place.overdue))

    def catch_up(self, feed: Feed) -> None:
        """Read what the feed lacks, unless a read is under way: that one goes on until it has reached the head."""
        if feed.reading is None or feed.reading.done():
            feed.reading = asyncio.create_task(self._read_to_head(feed), name=f"catch up {feed.key.session}")

    async def _read_to_head(self, feed: Feed) -> None:
        while True:
            before = feed.tail
            try:
                found = await self._log.read_range(feed.key, before, READ_ENTRIES_MAX)
            except Failure as failure:  # the next nudge or check tries again
                _log.warning("hub_read_failed", kind=failure.kind)
                return
            if feed.deleted and found.gen is None:
                return
            if found.gen != feed.gen or found.floor > before:
                if found.head < before and self._log.unsettled:
                    await asyncio.sleep(SETTLE_LOOK_MS / 1000)
                    continue
                feed.restart(found.gen, found.head)
                return
            if found.entries:
                feed.extend(found.gen or "", found.entries)
            if feed.tail >= found.head:
                return


def _is_behind(feed: Feed, gen: str | None, head: int) -> bool:
    if feed.deleted and not gen:
        return False
    return gen != feed.gen or head > feed.tail
