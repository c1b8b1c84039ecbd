"""Carries out the effects of one connection: one receiving task, one sending task.

The connection holds cursors, not queues of answers: the sending task takes what lies past each cursor, merges what has
piled up, and hands it to the socket. A client that reads slowly therefore costs no memory; one that does not read at
all is cut off. Answers to commands wait in a small bounded outbox. The receiving task waits neither for the sending one
nor for the store: commands that need the store are carried out one after another by a task that lives only as long as
there are some.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from turnwire.core.connection import (
    Authenticate,
    Close,
    Connection,
    Effect,
    Execute,
    Greeting,
    Send,
    error_frame,
    reply,
)
from turnwire.core.entries import Delta, Logged
from turnwire.core.merge import merge_logged
from turnwire.ports import Authenticator, Clock, Failure, SessionKey
from turnwire.runtime.backend import Backend, Opening, Refused, Unlearned
from turnwire.runtime.session_hub import Feed, SessionHub
from turnwire_protocol.codec import Codec, FrameRefused
from turnwire_protocol.codes import CloseCode
from turnwire_protocol.commands import AuthRefresh, SessionClose, SessionOpen, TurnCancel, TurnCreate
from turnwire_protocol.events import TERMINAL_TYPES, Frame

OUTBOX_FRAMES_MAX: Final = 1_024
COMMANDS_MAX: Final = 128
BURST_BYTES_MAX: Final = 131_072
"""What is handed to the socket at once, so that one long replay does not hold up the loop or other sessions."""

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


@dataclass(frozen=True, slots=True)
class DriverLimits:
    """`history` is how many turns a snapshot holds when the client does not say."""

    command_bytes_max: int
    send_timeout_ms: int
    history: int


class _Cursor:
    """Where this connection stands in one session. `feed` is None until its opening has been sent."""

    def __init__(self, driver: "ConnectionDriver", key: SessionKey, history: int) -> None:
        self.key = key
        self.history = history
        self.feed: Feed | None = None
        self.gen: str | None = None
        self.seq = 0
        self._driver = driver

    def wake(self) -> None:
        self._driver.advance(self)

    def stand_at(self, opening: Opening) -> None:
        self.gen = opening.gen
        self.seq = opening.seq


@dataclass(frozen=True, slots=True)
class _Open:
    """An outbox item: send the opening, then let the cursor run."""

    cursor: _Cursor
    feed: Feed
    opening: Opening


class ConnectionDriver:
    """One connection, from its handshake to its end. `run` returns when it is over."""

    def __init__(
        self,
        connection: str,
        socket: Socket,
        codec: Codec,
        *,
        backend: Backend,
        hub: SessionHub,
        authenticator: Authenticator,
        greeting: Greeting,
        clock: Clock,
        limits: DriverLimits,
    ) -> None:
        self._socket = socket
        self._codec = codec
        self._backend = backend
        self._hub = hub
        self._authenticator = authenticator
        self._clock = clock
        self._limits = limits
        self._core = Connection(connection, greeting, clock.monotonic_ms())
        self._cursors: dict[str, _Cursor] = {}
        self._dirty: dict[_Cursor, None] = {}
        self._outbox: deque[Frame | _Open | Close] = deque()
        self._wake = asyncio.Event()
        self._commands: deque[Execute | Authenticate] = deque()
        self._working: asyncio.Task[None] | None = None
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when `run` is about to return."""
        self._ending = False

    # --- life -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        sending = asyncio.create_task(self._send_until_closed(), name="sending")
        receiving = asyncio.create_task(self._receive_until_gone(), name="receiving")
        try:
            await asyncio.wait((sending, receiving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._ending = True
            for task in (sending, receiving):
                task.cancel()
            outcomes = await asyncio.gather(sending, receiving, return_exceptions=True)
            # What the store is doing for this client is not cancelled, only waited for: it is bounded by its time-outs.
            if self._working is not None:
                await asyncio.wait((self._working,))
            for cursor in list(self._cursors.values()):
                await self._leave(cursor)
            self.over.set_result(None)
            for outcome in outcomes:
                if isinstance(outcome, Exception) and not isinstance(outcome, Gone):
                    raise outcome

    def goaway(self, reason: str, reconnect_min_ms: int, reconnect_max_ms: int) -> None:
        """Tell the client that this node will stop, and when to come back."""
        self._push(
            {
                "type": "goaway",
                "reason": reason,
                "reconnect_min_ms": reconnect_min_ms,
                "reconnect_max_ms": reconnect_max_ms,
            }
        )

    def close(self, code: CloseCode) -> None:
        """Close once everything that waits has been sent."""
        self._core.phase = "closed"
        self._push(Close(code))

    # --- receiving ------------------------------------------------------------------------------------------------

    async def _receive_until_gone(self) -> None:
        try:
            await self._receive_hello()
            while True:
                self._take_in(await self._socket.receive())
        except Gone:
            return

    async def _receive_hello(self) -> None:
        """Until hello has come, the wait has a deadline."""
        while (deadline_ms := self._core.deadline_ms()) is not None:
            left_ms = max(0, deadline_ms - self._clock.monotonic_ms())
            try:
                async with asyncio.timeout(left_ms / 1000):
                    message = await self._socket.receive()
            except TimeoutError:
                self._carry_out(self._core.tick(self._clock.monotonic_ms()))
            else:
                self._take_in(message)

    def _take_in(self, message: str | bytes) -> None:
        now_ms = self._clock.monotonic_ms()
        try:
            command = self._codec.decode_command(message, self._limits.command_bytes_max)
        except FrameRefused as refusal:
            self._carry_out(self._core.refused(refusal, now_ms))
        else:
            self._carry_out(self._core.received(command, len(message), now_ms))

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self._push(effect.frame)
            elif isinstance(effect, Close):
                self._push(effect)
            elif len(self._commands) >= COMMANDS_MAX:
                self._carry_out(self._core.fail(CloseCode.RATE_LIMITED, "rate_limited", "too many commands at once"))
                return
            else:
                self._commands.append(effect)
                if self._working is None:
                    self._working = asyncio.create_task(self._work(), name="commands")

    def _push(self, item: "Frame | _Open | Close") -> None:
        if len(self._outbox) >= OUTBOX_FRAMES_MAX and not isinstance(item, Close):
            # The client sends but does not read. What it is owed it can have after it has come back.
            self._core.phase = "closed"
            self._outbox.clear()
            item = Close(CloseCode.TOO_SLOW)
        self._outbox.append(item)
        self._wake.set()

    # --- commands that need the store -----------------------------------------------------------------------------

    async def _work(self) -> None:
        try:
            while self._commands and not self._ending:
                effect = self._commands.popleft()
                if isinstance(effect, Authenticate):
                    identity = await self._authenticator.identify(effect.token)
                    self._carry_out(self._core.authenticated(None if identity is None else identity.user))
                else:
                    await self._execute(effect)
        except Exception as error:
            _log.exception("command_failed", kind=type(error).__name__)
            self._carry_out(self._core.fail(CloseCode.INTERNAL, "internal", "Something went wrong on our side."))
        finally:
            self._working = None

    async def _execute(self, effect: Execute) -> None:
        command = effect.command
        try:
            match command:
                case SessionOpen():
                    await self._open(command)
                case SessionClose():
                    cursor = self._cursors.get(command.session)
                    if cursor is not None:
                        await self._leave(cursor)
                    self._push(reply("ack", command, session=command.session))
                case TurnCreate():
                    await self._create(command)
                case TurnCancel():
                    result = await self._backend.cancel_turn(self._core.user, self._core.user, command)
                    self._push(reply("ack", command, session=command.session, turn=command.turn, result=result))
                case AuthRefresh():
                    identity = await self._authenticator.identify(command.token)
                    user = None if identity is None else identity.user
                    expires_at = None if identity is None else identity.expires_at
                    self._carry_out(self._core.refreshed(command, user, expires_at))
                case _:
                    await self._backend.respond(self._core.user, self._core.user, command)
                    self._push(reply("ack", command, session=command.session, turn=command.turn))
        except Refused as refused:
            frame = error_frame(refused.code, refused.message, command=command, retry_after_ms=refused.retry_after_ms)
            self._push(frame)
        except (Unlearned, Failure):
            message = "The store did not answer; reconnect and send this again."
            self._carry_out(self._core.fail(CloseCode.INTERNAL, "internal", message, command))

    async def _open(self, command: SessionOpen) -> None:
        history = self._limits.history if command.history is None else command.history
        cursor, feed = await self._join(command.session, history)
        opening = await self._backend.open(cursor.key, command.after, history, command.id)
        self._push(_Open(cursor, feed, opening))

    async def _create(self, command: TurnCreate) -> None:
        if command.session in self._cursors:
            created = await self._backend.create_turn(self._core.user, self._core.user, command)
        else:
            # The cursor is put on the session first, so that nothing of the turn has to be read back for it.
            cursor, feed = await self._join(command.session, self._limits.history)
            try:
                created = await self._backend.create_turn(self._core.user, self._core.user, command)
                opening = await self._backend.open_at(cursor.key, created.gen, created.seq - 1, cursor.history)
            except BaseException:
                await self._leave(cursor)
                raise
            self._push(_Open(cursor, feed, opening))
        self._core.turn_taken_up(command.session, command.turn)
        self._push(
            reply(
                "ack",
                command,
                session=command.session,
                turn=command.turn,
                seq=created.seq,
                duplicate=created.duplicate,
            )
        )

    async def _join(self, session: str, history: int) -> tuple[_Cursor, Feed]:
        """A new cursor in place of any old one; it sends nothing until its opening is through."""
        old = self._cursors.get(session)
        cursor = _Cursor(self, SessionKey(self._core.user, session), history)
        feed = await self._hub.attach(cursor.key, cursor)
        if old is not None:
            await self._leave(old)
        self._cursors[session] = cursor
        self._core.session_opened(session)
        return cursor, feed

    async def _leave(self, cursor: _Cursor) -> None:
        if self._cursors.get(cursor.key.session) is cursor:
            del self._cursors[cursor.key.session]
        self._dirty.pop(cursor, None)
        cursor.feed = None
        try:
            await self._hub.detach(cursor.key, cursor)
        except Failure as failure:  # the subscription is renewed as a whole when the store is back
            _log.warning("detach_failed", kind=failure.kind)

    # --- sending --------------------------------------------------------------------------------------------------

    def advance(self, cursor: _Cursor) -> None:
        """There may be something past the cursor."""
        self._dirty[cursor] = None
        self._wake.set()

    async def _send_until_closed(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._outbox:
                    item = self._outbox.popleft()
                    if isinstance(item, Close):
                        await self._socket.close(item.code)
                        return
                    if isinstance(item, _Open):
                        await self._send_opening(item)
                    else:
                        await self._transmit([self._codec.encode(item)])
                for cursor in list(self._dirty):
                    del self._dirty[cursor]
                    await self._advance(cursor)
        except Gone:
            return

    async def _send_opening(self, item: _Open) -> None:
        """`session.opened` and its snapshots; from then on the cursor follows its feed."""
        if self._cursors.get(item.cursor.key.session) is not item.cursor:
            return
        for frame in item.opening.frames:
            await self._transmit([self._codec.encode(frame)])
        item.cursor.stand_at(item.opening)
        item.cursor.feed = item.feed
        self.advance(item.cursor)

    async def _advance(self, cursor: _Cursor) -> None:
        """Send some of what lies past the cursor; if more is left, come back to it after the others."""
        feed = cursor.feed
        if feed is None:
            return
        if feed.gen != cursor.gen:
            await self._change_history(cursor, feed)
            return
        logged = feed.after(cursor.seq)
        if logged is None:
            found = await self._hub.read(cursor.key, cursor.seq)
            if found.gen != cursor.gen or cursor.seq < found.floor:
                await self._snapshot(cursor)
                return
            logged = found.entries
        if logged:
            await self._send_entries(cursor, feed, logged)

    async def _change_history(self, cursor: _Cursor, feed: Feed) -> None:
        """The log's gen is another one than the cursor's. A session's first turn is the harmless case of it."""
        if cursor.gen is None and feed.gen is not None and feed.after(0) is not None:
            opened = {"session": cursor.key.session, "gen": feed.gen, "seq": 0, "turn": None}
            frame = {"type": "session.opened", **opened, "mode": "snapshot", "turns": 0}
            await self._transmit([self._codec.encode(frame)])
            cursor.stand_at(Opening(feed.gen, 0, ()))
            self.advance(cursor)
            return
        await self._snapshot(cursor)

    async def _snapshot(self, cursor: _Cursor) -> None:
        """Unasked: the client's history is not the log's any more."""
        try:
            opening = await self._backend.snapshot(cursor.key, cursor.history, None)
        except Failure as failure:  # the next check wakes the cursor again
            _log.warning("snapshot_failed", kind=failure.kind)
            return
        for frame in opening.frames:
            await self._transmit([self._codec.encode(frame)])
        cursor.stand_at(opening)
        self.advance(cursor)

    async def _send_entries(self, cursor: _Cursor, feed: Feed, logged: Sequence[Logged]) -> None:
        merged = merge_logged(logged) if len(logged) > 1 else logged
        messages: list[bytes] = []
        size = 0
        for entry in merged:
            messages.append(feed.encoded(self._codec, entry))
            size += len(messages[-1])
            cursor.seq = entry.seq
            piece = entry.entry
            if not isinstance(piece, Delta) and piece.type in TERMINAL_TYPES and piece.turn is not None:
                self._core.turn_ended(cursor.key.session, piece.turn)
            if size >= BURST_BYTES_MAX:
                self.advance(cursor)
                break
        await self._transmit(messages)

    async def _transmit(self, messages: Sequence[bytes]) -> None:
        if self._socket.write(messages):
            return
        try:
            async with asyncio.timeout(self._limits.send_timeout_ms / 1000):
                await self._socket.drained()
        except TimeoutError:
            _log.info("client_too_slow", waited_ms=self._limits.send_timeout_ms)
            self._socket.abort()
            raise Gone from None
