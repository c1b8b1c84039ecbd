"""Shapes that several frames share: ids, cursors, input parts, usage, errors.

Every model is frozen and strict: a string is never read as a number. Unknown fields are ignored, as section "Envelope"
of docs/protocol.md demands of every receiver.
"""

from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from turnwire_protocol import limits
from turnwire_protocol.codes import ErrorCode, Retry


def _drop_titles(schema: dict[str, Any]) -> None:
    """Titles would become one alias a field in generated TypeScript (`Type1`, `Seq1`)."""
    for field in schema.get("properties", {}).values():
        field.pop("title", None)


class Value(BaseModel):
    """Base of all wire shapes."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="ignore", json_schema_extra=_drop_titles, allow_inf_nan=False
    )


Id = Annotated[str, StringConstraints(pattern=limits.ID_PATTERN)]
Seq = Annotated[int, Field(ge=1, le=limits.INTEGER_MAX)]
"""Position of a numbered frame in its session's log, from 1."""
Ordinal = Annotated[int, Field(ge=1, le=limits.INTEGER_MAX)]
"""A number that counts from 1."""
Count = Annotated[int, Field(ge=0, le=limits.INTEGER_MAX)]
Millis = Annotated[int, Field(ge=0, le=limits.INTEGER_MAX)]
"""A duration in ms, or a time in ms since 1970 where the field's name ends in `at`."""
Name = Annotated[str, StringConstraints(min_length=1, max_length=limits.NAME_CHARS_MAX)]
Kind = Literal["text", "reasoning", "refusal", "tool_call", "data"]
TurnState = Literal["queued", "running", "parked", "done", "error"]
FinishReason = Literal["stop", "length", "cancelled", "content_filter", "tool_calls", "budget"]
JsonObject = Annotated[dict[str, JsonValue], Field(max_length=limits.VALUE_KEYS_MAX)]


class Cursor(Value):
    """Where a reader stands: the last numbered frame that it has. `turn` is null after a session frame."""

    gen: Id | None
    seq: Count
    turn: Id | None = None


def _fits_a_snapshot(text: str) -> str:
    size = len(orjson.dumps(text)) - 2
    if size > limits.INPUT_PART_BYTES_MAX:
        raise ValueError(f"the text has {size} bytes as JSON, {limits.INPUT_PART_BYTES_MAX} are allowed")
    return text


class TextInput(Value):
    """Text; its size is counted as it stands in JSON, escapes included, in either codec."""

    type: Literal["text"]
    text: Annotated[
        str,
        StringConstraints(min_length=1, max_length=limits.INPUT_PART_BYTES_MAX),
        AfterValidator(_fits_a_snapshot),
    ]


class ImageInput(Value):
    """An image, base64 with padding and without line breaks (RFC 4648 section 4)."""

    type: Literal["image"]
    media_type: Literal["image/png", "image/jpeg", "image/gif", "image/webp"]
    data: Annotated[
        str,
        StringConstraints(
            min_length=4,
            max_length=limits.INPUT_PART_BYTES_MAX,
            pattern=r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
        ),
    ]


InputPart = Annotated[TextInput | ImageInput, Field(discriminator="type")]


class Tool(Value):
    """A function that the model may call; `parameters` is a JSON Schema."""

    name: Id
    description: Annotated[str, StringConstraints(max_length=4096)] | None = None
    parameters: JsonObject | None = None


class ClientInfo(Value):
    name: Name
    version: Name


class PartSummary(Value):
    """What a terminal says of each part: its length and zlib CRC-32, both over the UTF-8 of its whole text."""

    part: Count
    kind: Kind
    bytes: Count
    crc32: Annotated[int, Field(ge=0, le=0xFFFFFFFF)]


class Part(Value):
    """One strand of an answer, as far as it has come."""

    part: Count
    kind: Kind
    text: str
    call: Name | None = None
    name: Name | None = None
    last: bool = False


class Usage(Value):
    """Tokens of one turn, all its steps together. `estimated` where the provider did not say."""

    input_tokens: Count
    cached_input_tokens: Count | None = None
    output_tokens: Count
    reasoning_tokens: Count | None = None
    estimated: bool


Amount = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,18}(\.[0-9]{1,18})?$")]
"""Money as a decimal string, because a float cannot hold it."""


class Cost(Value):
    """What a turn has cost."""

    amount: Amount
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]


class ErrorBody(Value):
    """What went wrong, safe to show. `retry` says what helps; `retry_after_ms` from when."""

    code: ErrorCode
    message: Annotated[str, StringConstraints(min_length=1, max_length=500)]
    retry: Retry
    retry_after_ms: Millis | None = None
    upgrade_url: str | None = None


class Ask(Value):
    """Something a parked turn waits for."""

    request: Id
    kind: Literal["tool_result", "approval"]
    detail: JsonObject


class Left(Value):
    """What is left of a user's quotas, without what unfinished turns have claimed; absent where there is no limit.

    Days and months are those of UTC.
    """

    turns_per_minute: Count | None = None
    """How many turns may be sent at once."""
    turns_running: Count | None = None
    tokens_per_day: Count | None = None
    tokens_per_month: Count | None = None
    usd_per_day: Amount | None = None
    usd_per_month: Amount | None = None


class Limits(Value):
    """What this server allows a connection, see each field's unit in its name; and what is left to its user."""

    frame_bytes_max: Ordinal
    input_bytes_max: Ordinal
    frames_per_s: Ordinal
    bytes_per_s: Ordinal
    sessions_open_max: Ordinal
    turns_running_max: Ordinal
    history_turns_max: Ordinal
    left: Left | None = None
