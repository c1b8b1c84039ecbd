"""Error codes, close codes and what a client does about each.

A close code's range is its advice: 4000-4499 do not come back, 4500-4999 reconnect and resume. A client that meets a
code it does not know goes by the range.
"""

from enum import IntEnum
from typing import Final, Literal

Retry = Literal["none", "same_frame", "new_turn", "reconnect"]
"""What helps: nothing, sending the same frame again, a turn with a new id, or a new connection."""

ErrorCode = Literal[
    "bad_frame",
    "too_large",
    "unsupported",
    "unauthenticated",
    "token_expired",
    "forbidden",
    "not_found",
    "turn_conflict",
    "busy",
    "rate_limited",
    "quota_exceeded",
    "overloaded",
    "draining",
    "upstream_unavailable",
    "upstream_rejected",
    "upstream_timeout",
    "upstream_truncated",
    "upstream_malformed",
    "node_lost",
    "store_lost",
    "queue_expired",
    "input_expired",
    "invalid_output",
    "internal",
]

RETRY_ADVICE: Final[dict[ErrorCode, Retry]] = {
    "bad_frame": "none",
    "too_large": "none",
    "unsupported": "none",
    "unauthenticated": "none",
    "token_expired": "reconnect",
    "forbidden": "none",
    "not_found": "none",
    "turn_conflict": "none",
    "busy": "same_frame",
    "rate_limited": "same_frame",
    "quota_exceeded": "none",
    "overloaded": "same_frame",
    "draining": "reconnect",
    "upstream_unavailable": "new_turn",
    "upstream_rejected": "none",
    "upstream_timeout": "new_turn",
    "upstream_truncated": "new_turn",
    "upstream_malformed": "new_turn",
    "node_lost": "new_turn",
    "store_lost": "new_turn",
    "queue_expired": "new_turn",
    "input_expired": "new_turn",
    "invalid_output": "new_turn",
    "internal": "new_turn",
}
"""The usual advice of each code. A frame may carry another one where more is known, for example a Retry-After."""


class CloseCode(IntEnum):
    """WebSocket close codes that a Turnwire server sends (RFC 6455 section 7.4; 4000-4999 are the application's)."""

    NORMAL = 1000
    TRANSPORT_TOO_LARGE = 1009
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_FRAME = 4400
    UNAUTHENTICATED = 4401
    FORBIDDEN = 4403
    UNSUPPORTED_VERSION = 4406
    TOO_LARGE = 4413
    INTERNAL = 4500
    TOKEN_EXPIRED = 4501
    OVERLOADED = 4503
    HELLO_TIMEOUT = 4508
    NO_PONG = 4510
    TOO_SLOW = 4513
    RATE_LIMITED = 4529


LAST_ERRORS: Final[dict[CloseCode, frozenset[ErrorCode]]] = {
    CloseCode.BAD_FRAME: frozenset(["bad_frame"]),
    CloseCode.UNAUTHENTICATED: frozenset(["unauthenticated"]),
    CloseCode.FORBIDDEN: frozenset(["forbidden"]),
    CloseCode.UNSUPPORTED_VERSION: frozenset(["unsupported"]),
    CloseCode.TOO_LARGE: frozenset(["too_large"]),
    CloseCode.INTERNAL: frozenset(["internal"]),
    CloseCode.TOKEN_EXPIRED: frozenset(["token_expired"]),
    CloseCode.OVERLOADED: frozenset(["overloaded", "draining"]),
    CloseCode.HELLO_TIMEOUT: frozenset(["unauthenticated"]),
    CloseCode.RATE_LIMITED: frozenset(["rate_limited"]),
}
"""The error that goes right before each close code. The codes that are not here close without one."""


def may_reconnect(close_code: int) -> bool:
    """Whether a client whose connection closed with `close_code` should come back and resume.

    Codes below 4000 are the transport's: all of them are worth another try, except 1009 (a frame too large for the
    transport would be too large again).
    """
    if close_code == CloseCode.TRANSPORT_TOO_LARGE:
        return False
    return not 4000 <= close_code <= 4499
