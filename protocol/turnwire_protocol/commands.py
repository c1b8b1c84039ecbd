"""Commands: frames that a client sends.

Each may carry an `id`; exactly one unnumbered answer (`ack`, `error`, or the frame named below) repeats it as
`reply_to`. Numbered frames never answer a command.
"""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, JsonValue, StringConstraints, model_validator

from turnwire_protocol import limits
from turnwire_protocol.values import ClientInfo, Cursor, Id, InputPart, JsonObject, Millis, Name, Tool, Value

Token = Annotated[str, StringConstraints(max_length=limits.TOKEN_BYTES_MAX, pattern=limits.TOKEN_PATTERN)]
Reason = Annotated[str, StringConstraints(max_length=limits.REASON_CHARS_MAX)]


class Command(Value):
    """Base of what a client sends. A null field is as good as an absent one, `parent` of turn.create excepted."""

    id: Id | None = None


class Hello(Command):
    """The first command of a connection, within 5 s. Answered by `welcome`."""

    type: Literal["hello"]
    token: Token | None = None
    client: ClientInfo | None = None
    features: Annotated[list[Name], Field(max_length=limits.FEATURES_MAX)] = []


class AuthRefresh(Command):
    """A fresh token of the same user; another user's closes the connection with 4403. `ack` carries `expires_at`."""

    type: Literal["auth.refresh"]
    token: Token


class SessionOpen(Command):
    """Follow a session, from `after` on or from a snapshot. Answered by `session.opened`."""

    type: Literal["session.open"]
    session: Id
    after: Cursor | None = None
    history: Annotated[int, Field(ge=0, le=limits.HISTORY_TURNS_MAX)] | None = None


class SessionClose(Command):
    """Stop following a session. Its running turn goes on."""

    type: Literal["session.close"]
    session: Id


class TurnCreate(Command):
    """One user input. Idempotent: the same turn id with the same content is accepted once and acknowledged again.

    `parent` absent means the session's newest turn, null means a new root. `again` regenerates the answer of an
    earlier turn: that turn's input is used, so `input` must be empty then.
    """

    type: Literal["turn.create"]
    session: Id
    turn: Id
    input: Annotated[list[InputPart], Field(max_length=limits.INPUT_PARTS_MAX)] = []
    parent: Id | None = None
    again: Id | None = None
    model: Name | None = None
    params: JsonObject | None = None
    tools: Annotated[list[Tool], Field(max_length=limits.TOOLS_MAX)] | None = None
    response_format: JsonObject | None = None
    on_busy: Literal["reject", "queue", "interrupt"] = "reject"
    on_disconnect: Literal["continue", "cancel"] = "continue"
    cancel_after_ms: Annotated[Millis, Field(le=limits.CANCEL_AFTER_MS_MAX)] | None = None

    @model_validator(mode="after")
    def _input_or_again(self) -> Self:
        if self.again is None and not self.input:
            raise ValueError("input must hold at least one part")
        if self.again is not None and self.input:
            raise ValueError("again takes the earlier turn's input; send no input of its own")
        if self.again is not None and "parent" in self.model_fields_set:
            raise ValueError("again takes the earlier turn's parent; send no parent of its own")
        return self


class TurnCancel(Command):
    """Stop a turn from any device, also one that the server has not seen yet. `ack` carries `result`."""

    type: Literal["turn.cancel"]
    session: Id
    turn: Id
    reason: Reason | None = None


class TurnRespond(Command):
    """The answer to a `turn.asked`; the first one wins."""

    type: Literal["turn.respond"]
    session: Id
    turn: Id
    request: Id
    value: JsonValue


class Ping(Command):
    """Answered by `pong`."""

    type: Literal["ping"]


AnyCommand = Annotated[
    Hello | AuthRefresh | SessionOpen | SessionClose | TurnCreate | TurnCancel | TurnRespond | Ping,
    Field(discriminator="type"),
]

ANSWERED_BY: Final = {
    "hello": "welcome",
    "auth.refresh": "ack",
    "session.open": "session.opened",
    "session.close": "ack",
    "turn.create": "ack",
    "turn.cancel": "ack",
    "turn.respond": "ack",
    "ping": "pong",
}
"""The frame that answers each command that is carried out; `error` answers the others."""

COMMAND_TYPES: Final = frozenset(ANSWERED_BY)
