"""The client's connection: it dials, greets, listens, notices silence, comes back and takes up where it was.

What frames mean is the transcript's to say; this file owns the socket, the timers and what is still unanswered. A
message that is not acknowledged stays in the outbox and is sent again on the next connection under its id, so that the
server takes it once. Nothing here knows the server's code: it is what anyone's client can do with the protocol.
"""

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from types import TracebackType
from typing import Any, Final, Literal, Self

from turnwire.chat.handle import Handles, TurnHandle
from turnwire.chat.outbox import CommandRefused, Outbox, Waiting
from turnwire.chat.transcript import (
    HISTORY,
    BadFrame,
    Broken,
    Effect,
    Ended,
    Open,
    Opened,
    Session,
    Transcript,
    Updated,
)
from turnwire.chat.turns import Fault
from turnwire.chat.wire import ABNORMAL, Backoff, FullJitter, OnFrame, Unreachable, Wire, WireLost, endpoint_of
from turnwire_protocol.codec import JSON, MSGPACK
from turnwire_protocol.codes import may_reconnect
from turnwire_protocol.events import Frame

WELCOME_MS: Final = 10_000
"""How long a server may be silent before it has said how long it may be silent."""

STABLE_S: Final = 5
"""A connection that held this long counts as good: the next loss begins with short waits again."""

FULL_JITTER: Final = FullJitter()
VERSION: Final = version("turnwire")
CLOSED: Final = Fault("internal", "The connection was closed before the end.", "reconnect")

Status = Literal["idle", "connecting", "live", "offline", "refused", "closed"]
OnStatus = Callable[[Status, str], None]
Token = Callable[[], Awaitable[str]]


class ServerClosed(Exception):
    """The server does not want this client: its close code says not to come back. The text is a sentence."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class ChatConnection:
    """One client. Use as `async with ChatConnection(url) as chat`, or `connect` and `close`.

    `token` is asked for on every connection. `backoff` None means that a lost connection is the end. `on_frame` sees
    every frame in both directions, `on_status` every change of `status` with its reason.
    """

    def __init__(
        self,
        url: str,
        *,
        codec: Literal["json", "msgpack"] = "json",
        token: Token | None = None,
        backoff: Backoff | None = FULL_JITTER,
        on_frame: OnFrame | None = None,
        on_status: OnStatus | None = None,
    ) -> None:
        """Raises Unreachable when `url` is no address."""
        self.url = endpoint_of(url)
        self.status: Status = "idle"
        self.welcome: Frame = {}
        """The newest one; empty before the first."""
        self.transcript = Transcript()
        self._codec = JSON if codec == "json" else MSGPACK
        self._token = token
        self._backoff = backoff
        self._on_frame: OnFrame = on_frame or (lambda _side, _frame: None)
        self._on_status = on_status
        self._wire: Wire | None = None
        """Set while frames may be sent: hello has gone out."""
        self._outbox = Outbox()
        self._handles = Handles(self.transcript, self._outbox)
        self._openings: dict[str, list[asyncio.Future[None]]] = {}
        self._last_error: Frame = {}
        self._runner: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    # --- life ------------------------------------------------------------------------------------------------------

    async def connect(self) -> Frame:
        """Dial once and return the `welcome`; from then on lost connections are made again. Raises Unreachable or
        ServerClosed."""
        welcomed: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._runner = asyncio.create_task(self._run(welcomed), name="chat-connection")
        try:
            return await asyncio.shield(welcomed)
        except asyncio.CancelledError:
            await self.close()
            raise

    async def close(self) -> None:
        """End in order. Whatever still waits ends with a fault."""
        self._set_status("closed", "closed by this client")
        for task in list(self._leaving):
            task.cancel()
        if self._wire is not None:
            await self._wire.close()
        self._end_all(CLOSED)
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await runner

    def abort(self) -> None:
        """Cut the transport as a broken network would. A connection that may come back does."""
        if self._wire is not None:
            self._wire.abort()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # --- commands --------------------------------------------------------------------------------------------------

    async def open(self, session: str, history: int = HISTORY) -> Session:
        """Follow a session; returns when its last `history` turns are here. Raises CommandRefused."""
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._openings.setdefault(session, []).append(opened)
        await self._send(self.transcript.open(session, history).frame())
        await opened
        return self.transcript.sessions[session]

    async def send(
        self, session: str, content: str | Sequence[Frame], *, turn: str | None = None, **options: Any
    ) -> TurnHandle:
        """Say something: a text or input parts. Does not wait for the server; the handle does.

        `options` are further fields of turn.create. A session that is not followed yet is opened first. Raises
        CommandRefused only when too much waits already.
        """
        if session not in self.transcript.sessions:
            await self._send(self.transcript.open(session).frame())
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
        handle = self._handle(session, turn or f"t_{secrets.token_urlsafe(12)}")
        command: Frame = {"type": "turn.create", "session": session, "turn": handle.id, "input": parts, **options}
        waiting = self._outbox.add(command, lambda answer: self._handles.taken(handle, answer))
        self._handles.add(handle)
        await self._send_waiting(waiting)
        return handle

    def follow(self, session: str, turn: str) -> TurnHandle:
        """A handle on a turn that stands in the transcript, whoever sent it."""
        handle = self._handle(session, turn)
        handle.ack = {}
        self._handles.add(handle)
        known = handle.turn
        if known is not None and known.ended:
            self._handles.end(known)
        return handle

    async def regenerate(self, session: str, turn: str, **options: Any) -> TurnHandle:
        """Have an earlier turn answered again."""
        return await self.send(session, (), again=turn, **options)

    async def cancel(self, session: str, turn: str, reason: str | None = None) -> str:
        """Stop a turn; survives a lost connection. The `result` of its ack. Raises CommandRefused."""
        why = {} if reason is None else {"reason": reason}
        ack = await self.command({"type": "turn.cancel", "session": session, "turn": turn, **why})
        return str(ack["result"])

    async def respond(self, session: str, turn: str, request: str, value: Any) -> None:
        """Answer a turn.asked. Raises CommandRefused."""
        fields: Frame = {"session": session, "turn": turn, "request": request, "value": value}
        await self.command({"type": "turn.respond", **fields})

    async def close_session(self, session: str) -> None:
        """Stop following; a running turn goes on without this client. Raises CommandRefused."""
        self.transcript.close(session)
        await self.command({"type": "session.close", "session": session})

    async def command(self, frame: Frame) -> Frame:
        """Any command; its answer. Raises CommandRefused."""
        answered: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()

        def on_answer(answer: Frame | Fault) -> None:
            if answered.done():  # its caller was cancelled
                return
            if isinstance(answer, Fault):
                answered.set_exception(CommandRefused(answer))
            else:
                answered.set_result(answer)

        await self._send_waiting(self._outbox.add(frame, on_answer))
        return await answered

    # --- one connection after the other ----------------------------------------------------------------------------

    async def _run(self, welcomed: asyncio.Future[Frame]) -> None:
        try:
            await self._stay_connected(welcomed)
        except Exception as error:  # a fault of this client: nobody may wait for ever because of it
            self._stop(ABNORMAL, f"The client failed ({type(error).__name__}).")
            if welcomed.done():
                raise
            welcomed.set_exception(error)

    async def _stay_connected(self, welcomed: asyncio.Future[Frame]) -> None:
        tries = 0
        while True:
            self._set_status("connecting", "")
            began_at = time.monotonic()
            code, reason = await self._live_once(welcomed)
            if self.status == "closed":
                return
            if not welcomed.done():
                self._stop(code, reason)
                refused = code != ABNORMAL and not may_reconnect(code)
                welcomed.set_exception(ServerClosed(code, reason) if refused else Unreachable(reason))
                return
            if self._backoff is None or not may_reconnect(code):
                self._stop(code, reason)
                return
            self._set_status("offline", reason)
            tries = 0 if time.monotonic() - began_at >= STABLE_S else tries + 1
            after_s = int(self._last_error.get("retry_after_ms") or 0) / 1000
            await asyncio.sleep(max(self._backoff(tries), after_s))

    async def _live_once(self, welcomed: asyncio.Future[Frame]) -> tuple[int, str]:
        """Dial and serve one connection. How it ended: close code and reason."""
        self._last_error = {}
        wire: Wire | None = None
        try:
            wire = await Wire.dial(self.url, self._codec, self._on_frame)
            await self._greet(wire)
            while True:
                silence_ms = int(self.welcome.get("ping_ms", WELCOME_MS))
                await self._take_in(wire, await wire.receive(silence_ms), welcomed)
        except Unreachable as error:
            return ABNORMAL, str(error)
        except WireLost as lost:
            return lost.code, str(self._last_error.get("message") or lost.reason)
        except BadFrame as error:
            return ABNORMAL, f"The server sent a frame that makes no sense ({error})."
        finally:
            self._wire = None
            self._outbox.disconnect()
            if wire is not None:
                wire.abort()

    async def _greet(self, wire: Wire) -> None:
        """hello, then everything that has to be said again; nothing waits for the welcome."""
        hello: Frame = {"type": "hello", "client": {"name": "turnwire-chat", "version": VERSION}}
        if self._token is not None:
            try:
                hello["token"] = await self._token()
            except Exception as error:
                raise WireLost(ABNORMAL, f"There was no token to be had ({type(error).__name__}).") from error
        await wire.send(hello)
        self._wire = wire
        opens, unsent = self.transcript.resume(), self._outbox.unsent()
        for opening in opens:
            await wire.send(opening.frame())
        for waiting in unsent:
            await self._send_waiting(waiting)

    async def _take_in(self, wire: Wire, frame: Frame, welcomed: asyncio.Future[Frame]) -> None:
        try:
            effects = self._understand(wire, frame)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BadFrame(f"{frame.get('type')}: {type(error).__name__}") from error
        if frame["type"] == "welcome" and not welcomed.done():
            welcomed.set_result(frame)
        for effect in effects:
            await self._carry_out(wire, effect)

    def _understand(self, wire: Wire, frame: Frame) -> list[Effect]:
        match frame["type"]:
            case "welcome":
                self.welcome = frame
                self._set_status("live", "")
            case "error" if "reply_to" not in frame:
                self._last_error = dict(frame["error"])
            case "error" | "ack" | "pong":
                if not self._outbox.answer(frame):
                    self._leave(wire, 0.0)
                if frame["type"] == "error":
                    return self._open_refused(wire, frame)
            case "goaway":
                least, most = int(frame["reconnect_min_ms"]), int(frame["reconnect_max_ms"])
                self._leave(wire, random.uniform(least, max(least, most)) / 1000)  # noqa: S311 - a jitter is no secret
            case _:
                return self.transcript.receive(frame, time.monotonic_ns() // 1_000_000)
        return []

    def _open_refused(self, wire: Wire, frame: Frame) -> list[Effect]:
        """What an error means for the session whose open it answers, if it answers one."""
        open_id, error = str(frame["reply_to"]), frame["error"]
        if error["retry"] == "reconnect" and self.transcript.awaits(open_id):
            self._leave(wire, 0.0)  # every connection begins with the opens
            return []
        return self.transcript.refused(open_id, str(error["message"]))

    async def _carry_out(self, wire: Wire, effect: Effect) -> None:
        match effect:
            case Open():
                await wire.send(effect.frame())
            case Opened():
                self._settle_open(effect.session, None)
                self._handles.miss(effect.session)
            case Updated():
                self._handles.wake(effect.turn)
            case Ended():
                self._handles.end(effect.turn)
            case Broken():
                why = Fault("internal", f"The conversation cannot be followed: {effect.reason}.", "reconnect")
                self._settle_open(effect.session, why)
                self._handles.break_off(effect.session, why)

    def _settle_open(self, session: str, why: Fault | None) -> None:
        """Whoever waits for the session waits no longer."""
        for opened in self._openings.pop(session, []):
            if opened.done():  # its caller was cancelled
                continue
            if why is None:
                opened.set_result(None)
            else:
                opened.set_exception(CommandRefused(why))

    def _handle(self, session: str, turn: str) -> TurnHandle:
        known = self.transcript.sessions
        return TurnHandle(
            session,
            turn,
            find=lambda: known[session].turns.get(turn) if session in known else None,
            cancel=lambda: self.cancel(session, turn),
        )

    # --- within ----------------------------------------------------------------------------------------------------

    async def _send(self, frame: Frame) -> None:
        """Send if there is a connection; what is lost here is said again by `_greet`."""
        if self._wire is not None:
            with contextlib.suppress(WireLost):
                await self._wire.send(frame)

    async def _send_waiting(self, waiting: Waiting) -> None:
        if self._wire is not None and not waiting.sent:
            waiting.sent = True
            await self._send(waiting.frame)

    def _leave(self, wire: Wire, after_s: float) -> None:
        """Close this connection in a while, in order to come back on another."""

        async def leave() -> None:
            await asyncio.sleep(after_s)
            await wire.close()

        task = asyncio.create_task(leave(), name="leave")
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _stop(self, code: int, reason: str) -> None:
        """Nothing will come back."""
        self._set_status("offline" if may_reconnect(code) else "refused", reason)
        self._end_all(Fault("internal", f"The connection is gone: {reason}", "none"))

    def _end_all(self, why: Fault) -> None:
        self._outbox.fail_all(why)
        for session in list(self._openings):
            self._settle_open(session, why)
        self._handles.end_all(why)

    def _set_status(self, status: Status, reason: str) -> None:
        if status != self.status and self.status != "closed":
            self.status = status
            if self._on_status is not None:
                self._on_status(status, reason)
