"""Carries out the effects of one connection: it receives, works, and lets its Sender send.

The receiving task waits neither for the sending one nor for the store: commands that need the store are carried out
one after another by a task that lives only as long as there are some, so an idle connection costs two tasks.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from turnwire.core.connection import (
    Authenticate,
    Close,
    Connection,
    Effect,
    Execute,
    Grant,
    Greeting,
    Send,
    error_frame,
    reply,
)
from turnwire.ports import Authenticator, Clock, Failure, Identity, SessionKey
from turnwire.runtime.backend import Backend
from turnwire.runtime.quotas import Caller, Quotas
from turnwire.runtime.refusals import Refused, Unlearned
from turnwire.runtime.sender import Cursor, Gone, OpenCursor, Sender, Socket
from turnwire.runtime.session_hub import Feed, SessionHub
from turnwire_protocol.codec import Codec, FrameRefused
from turnwire_protocol.codes import CloseCode
from turnwire_protocol.commands import AuthRefresh, SessionClose, SessionOpen, TurnCancel, TurnCreate
from turnwire_protocol.events import Frame

COMMANDS_MAX: Final = 128

STORE_AWAY: Final = "The store did not answer; reconnect and send this again."

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DriverLimits:
    """`history` is how many turns a snapshot holds when the client does not say."""

    command_bytes_max: int
    send_timeout_ms: int
    history: int


class ConnectionDriver:
    """One connection, from its handshake to its end. `run` returns when it is over.

    `token` came with the handshake, and counts where `hello` has none. `address` is where it came from, "" where that
    is not known.
    """

    def __init__(
        self,
        connection: str,
        socket: Socket,
        codec: Codec,
        *,
        backend: Backend,
        hub: SessionHub,
        authenticator: Authenticator,
        quotas: Quotas,
        greeting: Greeting,
        clock: Clock,
        limits: DriverLimits,
        token: str | None = None,
        address: str = "",
    ) -> None:
        self._connection = connection
        self._socket = socket
        self._codec = codec
        self._backend = backend
        self._hub = hub
        self._authenticator = authenticator
        self._clock = clock
        self._limits = limits
        self._token = token
        self._address = address
        self._quotas = quotas
        self._identity: Identity | None = None
        self._caller: Caller | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_ms: int | None = None
        self._core = Connection(connection, greeting, clock.monotonic_ms())
        self._sender = Sender(
            socket,
            codec,
            backend,
            hub,
            send_timeout_ms=limits.send_timeout_ms,
            on_terminal=self._core.turn_ended,
            on_emptied=self._core.session_emptied,
        )
        self._cursors: dict[str, Cursor] = {}
        self._commands: deque[Execute | Authenticate] = deque()
        self._working: asyncio.Task[None] | None = None
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when `run` is about to return."""
        self._ending = False

    # --- life -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the client until it is gone or closed."""
        sending = asyncio.create_task(self._sender.run(), name="sending")
        receiving = asyncio.create_task(self._receive_until_gone(), name="receiving")
        self._set_timer()
        try:
            await asyncio.wait((sending, receiving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._ending = True
            if self._timer is not None:
                self._timer.cancel()
            for task in (sending, receiving):
                task.cancel()
            outcomes = await asyncio.gather(sending, receiving, return_exceptions=True)
            # What the store is doing for this client is waited for, not cancelled: its time-outs bound it.
            if self._working is not None:
                await asyncio.wait((self._working,))
            for cursor in list(self._cursors.values()):
                await self._leave(cursor)
            await self._quotas.leave(self._connection)
            self.over.set_result(None)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    def goaway(self, reason: str, reconnect_min_ms: int, reconnect_max_ms: int) -> None:
        """Tell the client that this node will stop, and when to come back."""
        frame: Frame = {"type": "goaway", "reason": reason}
        frame.update(reconnect_min_ms=reconnect_min_ms, reconnect_max_ms=reconnect_max_ms)
        self._push(frame)

    def close(self, code: CloseCode) -> None:
        """Close once everything that waits has been sent."""
        self._core.phase = "closed"
        self._push(Close(code))

    def check_identity(self) -> None:
        """Close if the client's token was revoked."""
        if self._identity is not None and not self._authenticator.holds(self._identity):
            self._end_token(self._core.token_ended())

    # --- time -----------------------------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        """One timer for whatever the core waits for next; an idle connection has none."""
        due_ms = self._core.deadline_ms()
        if due_ms == self._timer_at_ms:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at_ms = None, due_ms
        if due_ms is not None and not self._ending:
            left_ms = max(0, due_ms - self._clock.monotonic_ms())
            self._timer = asyncio.get_running_loop().call_later(left_ms / 1000, self._tick)

    def _tick(self) -> None:
        self._timer = self._timer_at_ms = None
        self._end_token(self._core.tick(self._clock.monotonic_ms()))
        self._set_timer()

    def _end_token(self, effects: Sequence[Effect]) -> None:
        """Carry out effects that may end the token, and with it what was to be done in its name."""
        if self._core.phase == "closed":
            self._commands.clear()
        self._carry_out(effects)

    # --- receiving ------------------------------------------------------------------------------------------------

    async def _receive_until_gone(self) -> None:
        try:
            while True:
                self._take_in(await self._socket.receive())
        except Gone:
            return

    def _take_in(self, message: str | bytes) -> None:
        now_ms = self._clock.monotonic_ms()
        size = len(message) if isinstance(message, bytes) else len(message.encode())
        try:
            command = self._codec.decode_command(message, self._limits.command_bytes_max)
        except FrameRefused as refusal:
            self._carry_out(self._core.refused(refusal, size, now_ms))
        else:
            self._carry_out(self._core.received(command, size, now_ms))

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

    def _push(self, item: Frame | OpenCursor | Close) -> None:
        if not self._sender.push(item):
            self._core.phase = "closed"

    # --- commands that need the store -----------------------------------------------------------------------------

    async def _work(self) -> None:
        try:
            while self._commands and not self._ending:
                effect = self._commands.popleft()
                if isinstance(effect, Authenticate):
                    await self._authenticate(effect)
                else:
                    await self._execute(effect)
        except Exception as error:
            _log.exception("command_failed", kind=type(error).__name__)
            self._carry_out(self._core.fail(CloseCode.INTERNAL, "internal", "Something went wrong on our side."))
        finally:
            self._working = None

    async def _authenticate(self, effect: Authenticate) -> None:
        limited, left = None, None
        try:
            grant = await self._identify(self._token if effect.token is None else effect.token)
            caller = self._caller
            if grant is not None and caller is not None:
                limited = await self._quotas.enter(caller, self._connection)
                left = await self._quotas.left(caller) if limited is None else None
        except Failure:
            self._carry_out(self._core.fail(CloseCode.INTERNAL, "internal", STORE_AWAY))
            return
        if limited is not None and caller is not None:
            self._quotas.tell(caller, limited)
            self._carry_out(self._core.crowded(limited.message, limited.told_after_ms))
            return
        self._carry_out(self._core.authenticated(grant, self._clock.monotonic_ms(), left))
        self._set_timer()

    async def _identify(self, token: str | None) -> Grant | None:
        """What a token gives here and now; its identity is what revocations are checked against from then on."""
        identity = await self._authenticator.identify(token)
        if identity is None:
            return None
        if self._core.user in ("", identity.user):  # another user's closes the connection
            self._identity = identity
            self._caller = self._quotas.caller(identity, self._address)
        ends_ms = None
        if identity.expires_at is not None:
            ends_ms = self._clock.monotonic_ms() + identity.expires_at - self._clock.now_ms()
        return Grant(identity.user, identity.scopes, ends_ms, identity.expires_at)

    async def _refresh(self, command: AuthRefresh) -> None:
        grant = await self._identify(command.token)
        self._carry_out(self._core.refreshed(command, grant, self._clock.monotonic_ms()))
        self._set_timer()

    async def _execute(self, effect: Execute) -> None:
        command = effect.command
        refusal = self._core.refusal_of(command)
        if refusal is not None:
            self._push(refusal)
            return
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
                    await self._refresh(command)
                case _:
                    await self._backend.respond(self._core.user, self._core.user, command)
                    self._push(reply("ack", command, session=command.session, turn=command.turn))
        except Refused as refused:
            frame = error_frame(
                refused.code,
                refused.message,
                command=command,
                retry_after_ms=refused.retry_after_ms,
                upgrade_url=refused.upgrade_url,
            )
            self._push(frame)
        except (Unlearned, Failure):
            self._carry_out(self._core.fail(CloseCode.INTERNAL, "internal", STORE_AWAY, command))

    async def _open(self, command: SessionOpen) -> None:
        history = self._limits.history if command.history is None else command.history
        await self._sender.openings_sent()
        cursor, feed = await self._join(command.session, history)
        opening = await self._backend.open(cursor.key, command.after, history, command.id)
        self._push(OpenCursor(cursor, feed, opening))

    async def _create(self, command: TurnCreate) -> None:
        caller = self._caller
        assert caller is not None  # noqa: S101 - for the type checker: commands wait until the client is known
        if command.session in self._cursors:
            created = await self._backend.create_turn(caller, command)
        else:
            await self._sender.openings_sent()
            # The cursor is put on the session first, so that nothing of the turn has to be read back for it.
            cursor, feed = await self._join(command.session, self._limits.history)
            try:
                created = await self._backend.create_turn(caller, command)
                opening = await self._backend.open_at(cursor.key, created.gen, created.seq - 1, cursor.history)
            except BaseException:
                await self._leave(cursor)
                raise
            self._push(OpenCursor(cursor, feed, opening))
        if not created.duplicate:
            self._core.turn_taken_up(command.session, command.turn)
        self._push(
            reply(
                "ack",
                command,
                session=command.session,
                turn=command.turn,
                seq=created.seq,
                duplicate=created.duplicate,
                left=None if created.left is None else created.left.model_dump(exclude_none=True),
            )
        )

    async def _join(self, session: str, history: int) -> tuple[Cursor, Feed]:
        """A new cursor in place of any old one; it sends nothing until its opening is through."""
        old = self._cursors.get(session)
        cursor = Cursor(self._sender, SessionKey(self._core.user, session), history)
        feed = await self._hub.attach(cursor.key, cursor)
        self._cursors[session] = cursor
        self._core.session_opened(session)
        if old is not None:
            await self._leave(old)
        return cursor, feed

    async def _leave(self, cursor: Cursor) -> None:
        if self._cursors.get(cursor.key.session) is cursor:
            del self._cursors[cursor.key.session]
            self._core.session_left(cursor.key.session)
        self._sender.forget(cursor)
        try:
            await self._hub.detach(cursor.key, cursor)
        except Failure as failure:  # the subscription is renewed as a whole when the store is back
            _log.warning("detach_failed", kind=failure.kind)
