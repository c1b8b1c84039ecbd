"""What a client may change of a session at rest: the body of `PATCH /v1/sessions/{session}`.

Unlike a command, it knows no fields but its own: somebody who misspells one is to hear of it, and there is no newer
client whose fields an older server should let pass.
"""

from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, ConfigDict, StringConstraints, ValidationError

from turnwire_protocol import limits
from turnwire_protocol.codec import FrameRefused, printable
from turnwire_protocol.values import JsonObject, Value


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


def validate_patch(value: dict[str, Any]) -> SessionPatch:
    """The patch in an object within the limits of check_value. Raises FrameRefused without `close`."""
    try:
        return SessionPatch.model_validate(value)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = printable(str(fault["loc"][0]))
    what = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        what = "there is no such field; title and metadata can be changed"
    raise FrameRefused("bad_frame", f"{field}: {what}"[:400])
