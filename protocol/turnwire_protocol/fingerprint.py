"""The digest that tells whether two `turn.create` with one turn id say the same thing.

SHA-256 over the validated fields that the client set, keys sorted, so that it is equal in both codecs and over HTTP.
Left out is what only says how to carry the turn (id, on_busy, on_disconnect, cancel_after_ms), what is unknown, and
each null that means the same as nothing: all but `parent`, where null asks for a new root.
"""

import hashlib
import json
from typing import Any, cast

from turnwire_protocol.commands import TurnCreate

_LEFT_OUT = {"type", "id", "session", "turn", "on_busy", "on_disconnect", "cancel_after_ms"}


def digest_of(command: TurnCreate) -> str:
    """64 hex digits."""
    fields = command.model_dump(mode="json", exclude_unset=True, exclude_none=True, exclude=_LEFT_OUT)
    if "parent" in command.model_fields_set:
        fields["parent"] = command.parent
    text = json.dumps(_canonical(fields), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any) -> Any:
    """Numbers in one form: JavaScript writes 1.0 as the integer 1 in both codecs, Python does not."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_canonical(item) for item in cast("list[Any]", value)]
    return value
