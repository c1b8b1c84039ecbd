"""Where a token may stand in a request: in one Authorization header, or among the subprotocols of a WebSocket."""

import re
from collections.abc import Sequence
from typing import Final

from turnwire_protocol import limits

SUBPROTOCOL_PREFIX: Final = "turnwire.bearer."
"""A browser offers `turnwire.v1.json` and, behind this, its token; the server selects the first."""

TOKEN_PARAMETERS: Final = frozenset(
    ["token", "access_token", "id_token", "api_key", "apikey", "key", "jwt", "auth", "authorization", "bearer"]
)
"""Names under which people put tokens into addresses."""

_TOKEN: Final = re.compile(limits.TOKEN_PATTERN)


def bearer_token(headers: Sequence[str]) -> str | None:
    """The token in the values of Authorization (RFC 6750 section 2.1), or None where there is none that anybody could
    know."""
    if len(headers) != 1:
        return None
    scheme, _, token = headers[0].partition(" ")
    return _checked(token.strip(" ")) if scheme.lower() == "bearer" else None


def offered_token(subprotocols: Sequence[str]) -> str | None:
    """The token among the offered subprotocols; None where there is none, or more than one."""
    tokens = [name.removeprefix(SUBPROTOCOL_PREFIX) for name in subprotocols if name.startswith(SUBPROTOCOL_PREFIX)]
    return _checked(tokens[0]) if len(tokens) == 1 else None


def _checked(token: str) -> str | None:
    return token if len(token) <= limits.TOKEN_BYTES_MAX and _TOKEN.fullmatch(token) is not None else None
