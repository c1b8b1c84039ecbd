"""State that a model's service wants back, as the text in which it is stored: core.entries.Content.opaque.

Pure. Each state names its maker, the service and model that left it, and only that maker reads it again: signatures of
another model are refused by most services, and nothing that one service said is anyone else's to see.
"""

from collections.abc import Mapping
from typing import Any, cast

import orjson

from turnwire.core.entries import OPAQUE_BYTES_MAX


def packed(maker: str, state: Mapping[str, Any]) -> str | None:
    """The state as it is stored; None when it is empty or too long to be kept."""
    if not state:
        return None
    text = orjson.dumps([maker, state])
    return text.decode() if len(text) <= OPAQUE_BYTES_MAX else None


def state_of(part: Mapping[str, Any], maker: str) -> dict[str, Any]:
    """What `maker` left on a part of a context; nothing when it was another's, or none."""
    text = part.get("opaque")
    if text is None:
        return {}
    by, state = cast("tuple[str, dict[str, Any]]", orjson.loads(text))
    return state if by == maker else {}
