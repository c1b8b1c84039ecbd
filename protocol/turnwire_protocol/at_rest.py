"""Bodies of HTTP calls: what a client may change of a session at rest, and the tokens that a server asks for.

Unlike a command, they know no fields but their own: somebody who misspells one is to hear of it, and there is no newer
client whose fields an older server should let pass.
"""

from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, ValidationError

from turnwire_protocol import limits
from turnwire_protocol.codec import FrameRefused, printable
from turnwire_protocol.values import JsonObject, Name, Value

Body = TypeVar("Body", bound=Value)


def _fits_a_session(metadata: dict[str, Any]) -> dict[str, Any]:
    size = len(orjson.dumps(metadata))
    if size > limits.METADATA_BYTES_MAX:
        raise ValueError(f"it has {size} bytes as JSON, {limits.METADATA_BYTES_MAX} are allowed")
    return metadata


class SessionPatch(Value):
    """New values; what is not set stays as it is (`model_fields_set` tells). Metadata is replaced as a whole."""

    model_config = ConfigDict(extra="forbid")

    title: Annotated[str, StringConstraints(min_length=1, max_length=limits.TITLE_CHARS_MAX)] | None = None
    """Null takes the title away."""
    metadata: Annotated[JsonObject, AfterValidator(_fits_a_session)] = {}


def _can_be_shown(name: str) -> str:
    if not name.isprintable():
        raise ValueError("it has characters that cannot be shown")
    return name


OwnerName = Annotated[Name, AfterValidator(_can_be_shown)]
"""A user or an organisation, by the name that the application gave it."""


class TokenRequest(Value):
    """The body of `POST /v1/tokens`."""

    model_config = ConfigDict(extra="forbid")

    user: OwnerName
    org: OwnerName | None = None
    scopes: Annotated[list[Literal["read", "write"]], Field(min_length=1, max_length=2)] = ["read", "write"]
    plan: OwnerName | None = None
    """The user's, of those that the server knows; absent: what holds for everyone."""
    org_plan: OwnerName | None = None
    ttl_ms: Annotated[int, Field(ge=limits.TOKEN_TTL_MS_MIN, le=limits.TOKEN_TTL_MS_MAX)] = 900_000


class TokenEnd(Value):
    """The body of `POST /v1/tokens/end`."""

    model_config = ConfigDict(extra="forbid")

    user: OwnerName


def validate_body(model: type[Body], value: dict[str, Any]) -> Body:
    """The body in an object within the limits of check_value. Raises FrameRefused without `close`."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = printable(str(fault["loc"][0]))
    what = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        what = f"there is no such field; there are {', '.join(model.model_fields)}"
    raise FrameRefused("bad_frame", f"{field}: {what}"[:400])
