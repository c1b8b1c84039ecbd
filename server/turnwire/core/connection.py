"""One client's connection: handshake, open, closing. Frames and time in, effects out; no socket, no task.

The caller carries out every effect in order, asks `refusal_of` before each Execute, and reports back what became of it
(`authenticated`, `crowded`, `refreshed`, `session_opened`, `session_left`, `session_emptied`, `turn_taken_up`,
`turn_ended`).
`tick` is due at `deadline_ms`, which any of these may move. Whatever arrives after a Close is ignored.

Commands may be sent together with `hello`, without waiting: they wait here, bounded, until the client is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from turnwire.core.admission import Bucket
from turnwire.core.credentials import OF_USERS, Scope
from turnwire.core.errors import error_body
from turnwire_protocol import limits
from turnwire_protocol.codec import FrameRefused
from turnwire_protocol.codes import CloseCode, ErrorCode
from turnwire_protocol.commands import (
    AnyCommand,
    AuthRefresh,
    Hello,
    Ping,
    SessionClose,
    SessionOpen,
    TurnCancel,
    TurnCreate,
    TurnRespond,
)
from turnwire_protocol.events import Frame
from turnwire_protocol.values import Left, Limits

FEATURES: Final = ("resume", "queue", "interrupt", "edit", "regenerate", "respond")

WAITING_COMMANDS_MAX: Final = 64
REFUSALS_MAX: Final = 200
REFUSALS_PER_S: Final = 10
"""A client that goes on through so many refusals, faster than this, is not going to stop by itself."""

EXPIRING_MS: Final = 60_000
"""So long before its token ends a client is told; where less than twice this is left at first, after half of it."""

BURST_S: Final = 2
"""The buckets hold two seconds' worth, so that a page that opens many sessions at once is not refused."""


@dataclass(frozen=True, slots=True)
class Send:
    frame: Frame


@dataclass(frozen=True, slots=True)
class Close:
    code: CloseCode


@dataclass(frozen=True, slots=True)
class Authenticate:
    """Find out who this is; report with `authenticated`."""

    token: str | None


@dataclass(frozen=True, slots=True)
class Execute:
    """Carry out a command and send its answer."""

    command: SessionOpen | SessionClose | TurnCreate | TurnCancel | TurnRespond | AuthRefresh


Effect = Send | Close | Authenticate | Execute


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token gives: as whom, to do what, and until when: `ends_ms` by the connection's clock, `expires_at` as the
    client is told it (ms since 1970)."""

    user: str
    scopes: frozenset[Scope] = OF_USERS
    ends_ms: int | None = None
    expires_at: int | None = None


@dataclass(frozen=True, slots=True)
class Greeting:
    """What `welcome` says beside the client's own things."""

    models: Sequence[str]
    limits: Limits
    ping_ms: int
    terminal_within_ms: int
    hello_ms: int


_NEEDED: Final[dict[str, frozenset[Scope]]] = {
    "session.open": frozenset(["read"]),
    "turn.create": frozenset(["read", "write"]),  # it opens the session, too
    "turn.cancel": frozenset(["write"]),
    "turn.respond": frozenset(["write"]),
}


def error_frame(
    code: ErrorCode,
    message: str,
    *,
    command: AnyCommand | None = None,
    reply_to: str | None = None,
    retry_after_ms: int | None = None,
    upgrade_url: str | None = None,
) -> Frame:
    """An `error` frame that answers `command`, if one is given."""
    frame: Frame = {"type": "error"}
    answered = reply_to if command is None else command.id
    if answered is not None:
        frame["reply_to"] = answered
    for name in ("session", "turn"):
        value = getattr(command, name, None)
        if value is not None:
            frame[name] = value
    frame["error"] = error_body(code, message, retry_after_ms, upgrade_url).model_dump(exclude_none=True)
    return frame


def reply(kind: str, command: AnyCommand, **fields: object) -> Frame:
    """An answer to `command`; fields that are None are left out."""
    frame: Frame = {"type": kind}
    if command.id is not None:
        frame["reply_to"] = command.id
    frame.update((name, value) for name, value in fields.items() if value is not None)
    return frame


class Connection:
    """The state of one connection. All times are ms of one monotonic clock."""

    def __init__(self, connection: str, greeting: Greeting, now_ms: int) -> None:
        self.phase: Literal["greeting", "authenticating", "open", "closed"] = "greeting"
        self._grant = Grant("")
        self._expiring_at_ms: int | None = None
        """When to send auth.expiring; None once it was sent, or where the token does not end."""
        self._connection = connection
        self._greeting = greeting
        self._hello: Hello | None = None
        self._hello_by_ms = now_ms + greeting.hello_ms
        self._waiting: list[AnyCommand] = []
        self._sessions: set[str] = set()
        self._turns: set[tuple[str, str]] = set()
        frames, size = greeting.limits.frames_per_s, greeting.limits.bytes_per_s
        self._frames = Bucket.full(frames, frames * BURST_S, now_ms)
        self._bytes = Bucket.full(size, max(size * BURST_S, limits.COMMAND_BYTES_MAX), now_ms)
        self._refusals = Bucket.full(REFUSALS_PER_S, REFUSALS_MAX, now_ms)

    @property
    def user(self) -> str:
        """Empty until the client is known."""
        return self._grant.user

    # --- what comes in --------------------------------------------------------------------------------------------

    def received(self, command: AnyCommand, size: int, now_ms: int) -> list[Effect]:
        """A valid command of `size` bytes."""
        if self.phase == "closed":
            return []
        limited = self._limited(command, size, now_ms)
        if limited is not None:
            return limited
        if isinstance(command, Ping):
            return [Send(reply("pong", command))]
        if isinstance(command, Hello):
            return self._greeted(command)
        if self.phase == "greeting":
            return self.fail(CloseCode.UNAUTHENTICATED, "unauthenticated", "the first command must be hello", command)
        if self.phase == "authenticating":
            if len(self._waiting) >= WAITING_COMMANDS_MAX:
                return self.fail(CloseCode.RATE_LIMITED, "rate_limited", "too many commands before welcome", command)
            self._waiting.append(command)
            return []
        return self._command(command)

    def refused(self, refusal: FrameRefused, size: int, now_ms: int) -> list[Effect]:
        """A frame of `size` bytes that is no valid command. It counts like one."""
        if self.phase == "closed":
            return []
        if refusal.close is not None:
            self.phase = "closed"
        wait_ms = self._frames.take(1, now_ms) or self._bytes.take(size, now_ms)
        if wait_ms and refusal.close is None:
            return self._refuse_for_rate(None, refusal.reply_to, wait_ms, now_ms)
        frame = error_frame(refusal.code, refusal.message, reply_to=refusal.reply_to)
        return [Send(frame)] if refusal.close is None else [Send(frame), Close(refusal.close)]

    def deadline_ms(self) -> int | None:
        """When `tick` is due next."""
        if self.phase == "greeting":
            return self._hello_by_ms
        if self.phase == "open":
            return self._grant.ends_ms if self._expiring_at_ms is None else self._expiring_at_ms
        return None

    def tick(self, now_ms: int) -> list[Effect]:
        """Time has passed."""
        if self.phase == "greeting" and now_ms >= self._hello_by_ms:
            seconds = self._greeting.hello_ms / 1000
            return self.fail(CloseCode.HELLO_TIMEOUT, "unauthenticated", f"no hello came within {seconds:g} s")
        if self.phase != "open":
            return []
        if self._grant.ends_ms is not None and now_ms >= self._grant.ends_ms:
            return self.token_ended()
        if self._expiring_at_ms is not None and now_ms >= self._expiring_at_ms:
            self._expiring_at_ms = None
            return [Send({"type": "auth.expiring", "expires_at": self._grant.expires_at})]
        return []

    def token_ended(self) -> list[Effect]:
        """Its time is over, or it was revoked. What runs goes on; the client may come back with another token."""
        return self.fail(CloseCode.TOKEN_EXPIRED, "token_expired", "the token is over; come back with a new one")

    # --- what became of effects -----------------------------------------------------------------------------------

    def crowded(self, message: str, retry_after_ms: int) -> list[Effect]:
        """The answer to Authenticate for a client that may come, but of whose kind too many are here."""
        if self.phase != "authenticating" or self._hello is None:
            return []
        self.phase = "closed"
        frame = error_frame("rate_limited", message, command=self._hello, retry_after_ms=retry_after_ms)
        return [Send(frame), Close(CloseCode.RATE_LIMITED)]

    def authenticated(self, grant: Grant | None, now_ms: int, left: Left | None = None) -> list[Effect]:
        """The answer to Authenticate; None: the token is nobody's. `left` is what its user may use."""
        if self.phase != "authenticating" or self._hello is None:
            return []
        hello = self._hello
        if grant is None:
            return self.fail(CloseCode.UNAUTHENTICATED, "unauthenticated", "the token was not accepted", hello)
        self.phase = "open"
        self._take(grant, now_ms)
        greeting = self._greeting
        welcome = reply(
            "welcome",
            hello,
            connection=self._connection,
            user=grant.user,
            features=[name for name in FEATURES if not hello.features or name in hello.features],
            models=list(greeting.models),
            limits=greeting.limits.model_copy(update={"left": left}).model_dump(exclude_none=True),
            ping_ms=greeting.ping_ms,
            terminal_within_ms=greeting.terminal_within_ms,
        )
        effects: list[Effect] = [Send(welcome)]
        waiting, self._waiting = self._waiting, []
        for command in waiting:
            effects.extend(self._command(command))
        return effects

    def refreshed(self, command: AuthRefresh, grant: Grant | None, now_ms: int) -> list[Effect]:
        """The answer to an Execute of auth.refresh."""
        if self.phase != "open":
            return []
        if grant is None:
            return [Send(error_frame("unauthenticated", "the token was not accepted", command=command))]
        if grant.user != self.user:
            return self.fail(CloseCode.FORBIDDEN, "forbidden", "the token is another user's", command)
        self._take(grant, now_ms)
        return [Send(reply("ack", command, expires_at=grant.expires_at))]

    def refusal_of(self, command: AnyCommand) -> Frame | None:
        """The answer to a command that goes beyond what this connection may do or have; ask when it is carried out,
        because several may have been sent together."""
        allowed = self._greeting.limits
        if missing := _NEEDED.get(command.type, frozenset()) - self._grant.scopes:
            return error_frame("forbidden", f"the token does not allow to {min(missing)} here", command=command)
        if not isinstance(command, SessionOpen | TurnCreate):
            return None
        if command.session not in self._sessions and len(self._sessions) >= allowed.sessions_open_max:
            text = f"this connection has {len(self._sessions)} sessions open; close one first"
            return error_frame("rate_limited", text, command=command)
        if isinstance(command, TurnCreate) and len(self._turns) >= allowed.turns_running_max:
            text = f"this connection has {len(self._turns)} turns running; wait for one to end"
            return error_frame("rate_limited", text, command=command)
        return None

    def session_opened(self, session: str) -> None:
        """A cursor stands on the session, by session.open or by its first turn.create."""
        self._sessions.add(session)

    def session_left(self, session: str) -> None:
        """No cursor stands on the session any more, so its turns' ends will not be seen here."""
        self._sessions.discard(session)
        self.session_emptied(session)

    def session_emptied(self, session: str) -> None:
        """The session was deleted or is another one now: its turns are over, without a terminal each."""
        self._turns = {turn for turn in self._turns if turn[0] != session}

    def turn_taken_up(self, session: str, turn: str) -> None:
        """A turn that this connection created was accepted."""
        self._turns.add((session, turn))

    def turn_ended(self, session: str, turn: str) -> None:
        """A terminal passed by."""
        self._turns.discard((session, turn))

    def fail(self, close: CloseCode, code: ErrorCode, message: str, command: AnyCommand | None = None) -> list[Effect]:
        """Say why, then close."""
        if self.phase == "closed":
            return []
        self.phase = "closed"
        frame = error_frame(code, message, command=command)
        if close is CloseCode.INTERNAL:
            # Nothing is known of the command: what helps is the same one on another connection, not another one.
            frame["error"]["retry"] = "reconnect"
        return [Send(frame), Close(close)]

    # --- within ---------------------------------------------------------------------------------------------------

    def _take(self, grant: Grant, now_ms: int) -> None:
        self._grant = grant
        self._expiring_at_ms = None
        if grant.ends_ms is not None:
            left_ms = max(0, grant.ends_ms - now_ms)
            self._expiring_at_ms = grant.ends_ms - min(EXPIRING_MS, left_ms // 2)

    def _greeted(self, hello: Hello) -> list[Effect]:
        if self.phase != "greeting":
            return [Send(error_frame("bad_frame", "hello may be sent once", command=hello))]
        self.phase = "authenticating"
        self._hello = hello
        return [Authenticate(hello.token)]

    def _command(self, command: AnyCommand) -> list[Effect]:
        if isinstance(command, Hello | Ping):
            raise TypeError(f"{command.type} is answered on arrival")
        return [Execute(command)]

    def _limited(self, command: AnyCommand, size: int, now_ms: int) -> list[Effect] | None:
        wait_ms = self._frames.take(1, now_ms) or self._bytes.take(size, now_ms)
        return self._refuse_for_rate(command, command.id, wait_ms, now_ms) if wait_ms else None

    def _refuse_for_rate(
        self, command: AnyCommand | None, reply_to: str | None, wait_ms: int, now_ms: int
    ) -> list[Effect]:
        if self._refusals.take(1, now_ms):
            return self.fail(CloseCode.RATE_LIMITED, "rate_limited", "too many frames", command)
        frame = error_frame(
            "rate_limited", "too many frames or bytes", command=command, reply_to=reply_to, retry_after_ms=wait_ms
        )
        return [Send(frame)]
