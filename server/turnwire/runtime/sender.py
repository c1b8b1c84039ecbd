"""What one connection sends: answers from a small outbox, and everything past its cursors.

A cursor is a place, not a queue: the sender takes what lies past it from the feed or from the log, merges what has
piled up, and hands it to the socket. A client that reads slowly therefore costs no memory; one that does not read at
all is cut off.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from turnwire.core.connection import Close
from turnwire.core.entries import Delta, Logged
from turnwire.core.merge import merge_logged
from turnwire.ports import Failure, SessionKey
from turnwire.runtime.backend import Backend, Opening
from turnwire.runtime.session_hub import Feed, SessionHub
from turnwire_protocol.codec import Codec
from turnwire_protocol.codes import CloseCode
from turnwire_protocol.events import TERMINAL_TYPES, Frame

OUTBOX_FRAMES_MAX: Final = 1_024
BURST_BYTES_MAX: Final = 131_072
"""What is handed to the socket at once, so that one long replay does not hold up the loop or other sessions."""

STORE_AWAY_MS: Final = 500
"""When a cursor that could not be read, or whose feed lags behind it, tries again."""

_log = structlog.get_logger(__name__)


class Gone(Exception):
    """The peer is not there any more."""


class Socket(Protocol):
    """A WebSocket whose handshake is done."""

    async def receive(self) -> str | bytes:
        """The next message. Raises Gone."""
        ...

    def write(self, messages: Sequence[bytes]) -> bool:
        """Give messages to the transport. False when its buffer is full: `drained` before the next. Raises Gone."""
        ...

    async def drained(self) -> None: ...
    async def close(self, code: int) -> None: ...
    def abort(self) -> None:
        """Drop the transport and its buffer at once."""
        ...


class Cursor:
    """Where a connection stands in one session. `feed` is None until its opening has been sent."""

    def __init__(self, sender: "Sender", key: SessionKey, history: int) -> None:
        self.key = key
        self.history = history
        self.feed: Feed | None = None
        self.gen: str | None = None
        self.seq = 0
        self._sender = sender

    def wake(self) -> None:
        self._sender.advance(self)

    def stand_at(self, gen: str | None, seq: int) -> None:
        self.gen = gen
        self.seq = seq


@dataclass(frozen=True, slots=True)
class OpenCursor:
    """An outbox item: send the opening, then let the cursor follow its feed."""

    cursor: Cursor
    feed: Feed
    opening: Opening


class Sender:
    """The sending half of a connection. `on_terminal` is told session and turn of each terminal that is sent,
    `on_emptied` each session that is told to be gone."""

    def __init__(
        self,
        socket: Socket,
        codec: Codec,
        backend: Backend,
        hub: SessionHub,
        *,
        send_timeout_ms: int,
        on_terminal: Callable[[str, str], None],
        on_emptied: Callable[[str], None],
    ) -> None:
        self._socket = socket
        self._codec = codec
        self._backend = backend
        self._hub = hub
        self._send_timeout_ms = send_timeout_ms
        self._on_terminal = on_terminal
        self._on_emptied = on_emptied
        self._outbox: deque[Frame | OpenCursor | Close] = deque()
        self._dirty: dict[Cursor, None] = {}
        self._wake = asyncio.Event()
        self._no_opening = asyncio.Event()
        self._no_opening.set()
        self._over = False

    async def openings_sent(self) -> None:
        """Wait until no opening is left to send: a snapshot may be large, so a client that does not read has one at
        most. Returns also when the connection ends."""
        await self._no_opening.wait()

    def push(self, item: Frame | OpenCursor | Close) -> bool:
        """Put something into the outbox. False when it is full: the client sends but does not read, so it is closed;
        what it is owed it can have after it has come back. False also when nothing is sent any more."""
        if self._over:
            return False
        whole = len(self._outbox) < OUTBOX_FRAMES_MAX or isinstance(item, Close)
        if not whole:
            self._outbox.clear()
            item = Close(CloseCode.TOO_SLOW)
        if isinstance(item, OpenCursor):
            self._no_opening.clear()
        self._outbox.append(item)
        self._wake.set()
        return whole

    def advance(self, cursor: Cursor) -> None:
        """There may be something past the cursor."""
        self._dirty[cursor] = None
        self._wake.set()

    def forget(self, cursor: Cursor) -> None:
        """The cursor sends nothing more."""
        cursor.feed = None
        self._dirty.pop(cursor, None)

    async def run(self) -> None:
        """Send until the connection is closed or gone."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._outbox:
                    item = self._outbox.popleft()
                    if isinstance(item, Close):
                        await self._socket.close(item.code)
                        return
                    if isinstance(item, OpenCursor):
                        await self._open(item)
                        self._no_opening.set()
                    else:
                        await self._transmit([self._codec.encode(item)])
                for cursor in list(self._dirty):
                    if cursor in self._dirty:  # not forgotten while others were served
                        del self._dirty[cursor]
                        await self._advance(cursor)
        except Gone:
            return
        finally:
            # Commands that were under way may still put openings in, and whoever waits for these would wait for ever.
            self._over = True
            self._no_opening.set()

    # --- cursors --------------------------------------------------------------------------------------------------

    async def _open(self, item: OpenCursor) -> None:
        """Every open is answered, also when its cursor was closed or replaced while the answer waited here."""
        await self._send_frames(item.opening.frames)
        if item.cursor in item.feed.readers:
            item.cursor.stand_at(item.opening.gen, item.opening.seq)
            item.cursor.feed = item.feed
            self.advance(item.cursor)

    async def _advance(self, cursor: Cursor) -> None:
        """Send some of what lies past the cursor; if more is left, come back to it after the others."""
        feed = cursor.feed
        if feed is None:
            return
        if feed.deleted and cursor.gen is None:
            return  # it was opened after the deletion, or told of it by a snapshot: there is nothing to read
        try:
            if feed.gen != cursor.gen:
                await self._change_history(cursor, feed)
                return
            logged = feed.after(cursor.seq)
            if logged is None:
                found = await self._hub.read(cursor.key, cursor.seq)
                if found.gen != cursor.gen or cursor.seq < found.floor:
                    await self._snapshot(cursor, feed)
                    return
                logged = found.entries
        except Failure as failure:
            _log.warning("cursor_waits", kind=failure.kind)
            asyncio.get_running_loop().call_later(STORE_AWAY_MS / 1000, self.advance, cursor)
            return
        if logged:
            await self._send_entries(cursor, feed, logged)

    async def _change_history(self, cursor: Cursor, feed: Feed) -> None:
        """The log's gen is another one than the cursor's. A session's first turn is the harmless case of it."""
        if cursor.gen is None and feed.gen is not None and feed.after(0) is not None:
            place: Frame = {"session": cursor.key.session, "gen": feed.gen, "seq": 0, "turn": None}
            opened: Frame = {"type": "session.opened", **place, "mode": "snapshot", "turns": 0}
            await self._transmit([self._codec.encode(opened)])
            cursor.stand_at(feed.gen, 0)
            self.advance(cursor)
            return
        await self._snapshot(cursor, feed)

    async def _snapshot(self, cursor: Cursor, feed: Feed) -> None:
        """Unasked: the client's history is not the log's any more."""
        opening = await self._backend.snapshot(cursor.key, cursor.history, None)
        await self._send_frames(opening.frames)
        cursor.stand_at(opening.gen, opening.seq)
        if opening.gen is None:
            self._on_emptied(cursor.key.session)
        if opening.gen == feed.gen or feed.deleted:
            self.advance(cursor)
            return
        # The feed has yet to learn what the log is now; asking for snapshots until it has would keep the store busy.
        self._hub.catch_up(feed)
        asyncio.get_running_loop().call_later(STORE_AWAY_MS / 1000, self.advance, cursor)

    async def _send_frames(self, frames: Sequence[Frame]) -> None:
        """`session.opened` and its snapshots, one at a time: together they may be large."""
        for frame in frames:
            if "terminal" in frame:
                self._on_terminal(frame["session"], frame["turn"])
            await self._transmit([self._codec.encode(frame)])

    async def _send_entries(self, cursor: Cursor, feed: Feed, logged: Sequence[Logged]) -> None:
        merged = merge_logged(logged) if len(logged) > 1 else logged
        messages: list[bytes] = []
        size = 0
        for entry in merged:
            messages.append(feed.encoded(self._codec, entry))
            size += len(messages[-1])
            cursor.seq = entry.seq
            piece = entry.entry
            if not isinstance(piece, Delta) and piece.type in TERMINAL_TYPES and piece.turn is not None:
                self._on_terminal(cursor.key.session, piece.turn)
            elif not isinstance(piece, Delta) and piece.type == "session.deleted":
                self._on_emptied(cursor.key.session)
            if size >= BURST_BYTES_MAX:
                break
        await self._transmit(messages)
        if cursor.seq < feed.tail:
            self.advance(cursor)

    async def _transmit(self, messages: Sequence[bytes]) -> None:
        if self._socket.write(messages):
            return
        try:
            async with asyncio.timeout(self._send_timeout_ms / 1000):
                await self._socket.drained()
        except TimeoutError:
            _log.info("client_too_slow", waited_ms=self._send_timeout_ms)
            self._socket.abort()
            raise Gone from None
