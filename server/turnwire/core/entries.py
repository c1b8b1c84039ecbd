"""What stands in a session's log, and what a provider says, as plain values.

A log entry is either a Delta or an Event. Neither knows its seq before the store gave it one; Logged is the pair. The
hot path makes many of these, so they are slotted and unvalidated: validation happens at the borders of a turn.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from turnwire_protocol.values import FinishReason, Kind

OPAQUE_BYTES_MAX: Final = 65_536
"""Of one part. What is longer is not kept, and the provider has to do without."""


@dataclass(slots=True)
class Delta:
    """A piece of part `part` of a turn's answer."""

    turn: str
    part: int
    kind: Kind
    text: str
    call: str | None = None
    name: str | None = None
    last: bool = False
    opaque: str | None = None
    """See Content. In the log, and never in a frame."""


@dataclass(slots=True)
class Event:
    """Any entry but a delta: its type, and its remaining fields as the text of a JSON object.

    `turn` is None for session frames. `fields` are string fields that a script decides in the store (a turn's parent
    and state), so that Lua need not write JSON; an empty string stands for null.
    """

    type: str
    turn: str | None
    body: bytes
    fields: dict[str, str] = field(default_factory=dict[str, str])
    at: int = 0
    """Ms since 1970 by the store's clock; 0 until stored."""
    kept: bytes = b""
    """JSON object, or nothing: what writers of this turn want back should another take over. Never sent to clients."""


Entry = Delta | Event


@dataclass(slots=True)
class Logged:
    """An entry at its place. `first_seq` < `seq` when adjacent deltas were merged."""

    seq: int
    first_seq: int
    entry: Entry


@dataclass(slots=True)
class Content:
    """Provider event: a piece of the answer. The first one of a step is its first byte."""

    part: int
    """Counted from 0 within the step; the runner moves it behind the parts of earlier steps."""
    kind: Kind
    text: str
    call: str | None = None
    name: str | None = None
    last: bool = False
    opaque: str | None = None
    """State of the whole part that its provider wants back in later requests, as text that only the provider's adapter
    reads: at most OPAQUE_BYTES_MAX, on the part's last delta. Stored, never sent to clients."""


@dataclass(slots=True)
class UsageReport:
    """Provider event: tokens so far in this step. A later report replaces an earlier one."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass(slots=True)
class Finish:
    """Provider event: the end was proved, by a finish reason or the protocol's terminal event."""

    reason: FinishReason


ProviderEvent = Content | UsageReport | Finish


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the context that a provider is given.

    `parts` have a `type`. Input parts are as on the wire. Those of role assistant are `text`, `reasoning` and
    `tool_call`, in the order in which the model wrote them, each with its `text` (of a call: the arguments, JSON as the
    model wrote it), a call with `call` and `name` too, and with `opaque` where the provider left some.
    """

    role: Literal["system", "user", "assistant", "tool"]
    parts: tuple[Mapping[str, Any], ...] = ()
    call: str | None = None
    """For role tool: which call this is the result of."""
