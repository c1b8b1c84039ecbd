"""Frames that a server sends.

Numbered frames carry `session` and `seq` (and `turn`, where they belong to one); they are entries of the session's log
and reach a client only through a cursor. Unnumbered frames answer a command or speak about the connection.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from turnwire_protocol import limits
from turnwire_protocol.values import (
    Ask,
    Cost,
    Count,
    ErrorBody,
    FinishReason,
    Id,
    InputPart,
    JsonObject,
    Kind,
    Left,
    Limits,
    Millis,
    Name,
    Ordinal,
    Part,
    PartSummary,
    Seq,
    TurnState,
    Usage,
    Value,
)


class ServerFrame(Value):
    """Base of what a server sends; absent optional fields are left out, never sent as null, unless the type says so."""


# --- numbered -----------------------------------------------------------------------------------------------------


class SessionFrame(ServerFrame):
    """Base of the numbered frames that belong to no turn."""

    session: Id
    seq: Seq
    at: Millis


class TurnFrame(ServerFrame):
    """Base of the numbered frames of a turn, deltas excepted, which do without `at`."""

    session: Id
    turn: Id
    seq: Seq
    at: Millis


class TurnAccepted(TurnFrame):
    """The turn is stored. `parent` null marks a root of the conversation's tree."""

    type: Literal["turn.accepted"]
    input: Annotated[list[InputPart], Field(max_length=limits.INPUT_PARTS_MAX)]
    parent: Id | None
    again: Id | None = None
    model: Name
    author: str
    state: Literal["running", "queued"]


class TurnStarted(TurnFrame):
    """An upstream request of step `step` (from 1) begins; `attempt` counts from 1 within the step."""

    type: Literal["turn.started"]
    step: Ordinal
    attempt: Ordinal
    model: Name


class TurnRetrying(TurnFrame):
    """The step failed before its first byte; attempt `attempt` begins in `delay_ms`. `code` says what went wrong."""

    type: Literal["turn.retrying"]
    attempt: Ordinal
    delay_ms: Millis
    code: str


class TurnDelta(ServerFrame):
    """A piece of an answer. `first_seq` is there only on a merged delta, which stands for first_seq to seq.

    A part's first delta adds what names it (`call` and `name` for tool_call, `name` for data); its last one carries
    `last`.
    """

    type: Literal["turn.delta"]
    session: Id
    turn: Id
    seq: Seq
    first_seq: Seq | None = None
    part: Count
    kind: Kind
    text: str
    call: Name | None = None
    name: Name | None = None
    last: Literal[True] | None = None


class TurnAsked(TurnFrame):
    """The turn is parked until `turn.respond` names this request."""

    type: Literal["turn.asked"]
    request: Id
    kind: Literal["tool_result", "approval"]
    detail: JsonObject


class TurnResponded(TurnFrame):
    """The answer to a request is stored; `by` names the user who gave it."""

    type: Literal["turn.responded"]
    request: Id
    by: str


class TurnCancelling(TurnFrame):
    """A cancel is stored; the terminal follows."""

    type: Literal["turn.cancelling"]
    by: str


class TurnDone(TurnFrame):
    """Terminal: the answer ended. `upstream_stopped` false says that a cancel could not close the provider's socket."""

    type: Literal["turn.done"]
    finish_reason: FinishReason
    usage: Usage
    cost: Cost | None = None
    model: Name
    attempts: Count
    first_token_ms: Millis | None
    duration_ms: Millis
    parts: list[PartSummary]
    upstream_stopped: bool | None = None


class TurnError(TurnFrame):
    """Terminal: the answer failed. `partial` says whether anything of it was sent; it is kept."""

    type: Literal["turn.error"]
    error: ErrorBody
    usage: Usage | None = None
    cost: Cost | None = None
    partial: bool
    parts: list[PartSummary]


class SessionUpdated(SessionFrame):
    """The session's title or metadata changed; both are sent whole."""

    type: Literal["session.updated"]
    title: str | None
    metadata: JsonObject


class SessionDeleted(SessionFrame):
    """The session is gone; for its unfinished turns this is the terminal."""

    type: Literal["session.deleted"]


# --- unnumbered ---------------------------------------------------------------------------------------------------


class Welcome(ServerFrame):
    """Answers `hello`. The first of `models` is the default."""

    type: Literal["welcome"]
    reply_to: Id | None = None
    connection: Id
    user: str
    features: list[Name]
    models: list[Name]
    limits: Limits
    ping_ms: Millis
    terminal_within_ms: Millis


class SessionOpened(ServerFrame):
    """A cursor stands at {gen, seq, turn}; frames go on at seq + 1.

    `replay`: nothing changes in what the client has. `snapshot`: `turns` turn.snapshot frames follow, which the client
    takes in place of all it had of the session. Sent unasked when the log does not go on from a live cursor.
    """

    type: Literal["session.opened"]
    reply_to: Id | None = None
    session: Id
    gen: Id | None
    seq: Count
    turn: Id | None
    mode: Literal["replay", "snapshot"]
    turns: Count


class TurnSnapshot(ServerFrame):
    """One turn as of session.opened.seq. `continued` marks a further piece of the turn before: append it."""

    type: Literal["turn.snapshot"]
    session: Id
    turn: Id
    state: TurnState
    parent: Id | None
    again: Id | None = None
    model: Name
    author: str
    at: Millis
    input: list[InputPart]
    parts: list[Part]
    pending: list[Ask]
    terminal: Annotated[TurnDone | TurnError, Field(discriminator="type")] | None = None
    continued: Literal[True] | None = None


class AuthExpiring(ServerFrame):
    """The token ends at `expires_at`; auth.refresh keeps the connection."""

    type: Literal["auth.expiring"]
    expires_at: Millis


class Goaway(ServerFrame):
    """The server will close; reconnect at a random time between min and max."""

    type: Literal["goaway"]
    reason: str
    reconnect_min_ms: Millis
    reconnect_max_ms: Millis


class Error(ServerFrame):
    """A command was refused, or what follows is the end of the connection."""

    type: Literal["error"]
    reply_to: Id | None = None
    session: Id | None = None
    turn: Id | None = None
    error: ErrorBody


class Ack(ServerFrame):
    """A command was carried out. Which fields are there depends on the command: see docs/protocol.md."""

    type: Literal["ack"]
    reply_to: Id | None = None
    session: Id | None = None
    turn: Id | None = None
    seq: Seq | None = None
    duplicate: bool | None = None
    result: Literal["cancelling", "already_done", "pending"] | None = None
    expires_at: Millis | None = None
    left: Left | None = None


class Pong(ServerFrame):
    """Answers `ping`."""

    type: Literal["pong"]
    reply_to: Id | None = None


AnyNumbered = Annotated[
    TurnAccepted
    | TurnStarted
    | TurnRetrying
    | TurnDelta
    | TurnAsked
    | TurnResponded
    | TurnCancelling
    | TurnDone
    | TurnError
    | SessionUpdated
    | SessionDeleted,
    Field(discriminator="type"),
]

AnyEvent = Annotated[
    TurnAccepted
    | TurnStarted
    | TurnRetrying
    | TurnDelta
    | TurnAsked
    | TurnResponded
    | TurnCancelling
    | TurnDone
    | TurnError
    | SessionUpdated
    | SessionDeleted
    | Welcome
    | SessionOpened
    | TurnSnapshot
    | AuthExpiring
    | Goaway
    | Error
    | Ack
    | Pong,
    Field(discriminator="type"),
]

NUMBERED_TYPES = frozenset(
    [
        "turn.accepted",
        "turn.started",
        "turn.retrying",
        "turn.delta",
        "turn.asked",
        "turn.responded",
        "turn.cancelling",
        "turn.done",
        "turn.error",
        "session.updated",
        "session.deleted",
    ]
)
TERMINAL_TYPES = frozenset(["turn.done", "turn.error"])

Frame = dict[str, Any]
"""A frame on its way out: built by hand for speed, held to the models above by the tests."""
