"""Any failure becomes a safe message, a code and advice.

Users see only the sentences of this file: exception text, upstream bodies and addresses never reach them.
"""

from typing import Final, Literal

from turnwire_protocol.codes import RETRY_ADVICE, ErrorCode
from turnwire_protocol.values import ErrorBody

FailureKind = Literal[
    "upstream_connect",
    "upstream_busy",
    "upstream_failed",
    "upstream_rejected",
    "upstream_unauthorised",
    "timeout_connect",
    "timeout_first_content",
    "timeout_idle",
    "timeout_total",
    "truncated",
    "malformed",
    "output_too_large",
    "not_recorded",
    "store_away",
    "store_full",
    "internal",
]
"""What an adapter says went wrong, in terms that retry and messages are decided on."""

RETRYABLE: Final[frozenset[FailureKind]] = frozenset(
    [
        "upstream_connect",
        "upstream_busy",
        "upstream_failed",
        "timeout_connect",
        "timeout_first_content",
        "truncated",
        "malformed",
    ]
)
"""Worth another attempt, as long as the step has no first byte. A rejected request would be rejected again."""

_CODES: Final[dict[FailureKind, tuple[ErrorCode, str]]] = {
    "upstream_connect": ("upstream_unavailable", "The model could not be reached."),
    "upstream_busy": ("upstream_unavailable", "The model is overloaded right now."),
    "upstream_failed": ("upstream_unavailable", "The model's service failed."),
    "upstream_rejected": ("upstream_rejected", "The model's service refused the request."),
    "upstream_unauthorised": ("upstream_rejected", "The model's service refused this server's credentials."),
    "timeout_connect": ("upstream_timeout", "The model did not accept the connection in time."),
    "timeout_first_content": ("upstream_timeout", "The model did not begin to answer in time."),
    "timeout_idle": ("upstream_timeout", "The model stopped in the middle of its answer."),
    "timeout_total": ("upstream_timeout", "The answer took longer than allowed."),
    "truncated": ("upstream_truncated", "The answer was cut off before its end."),
    "malformed": ("upstream_malformed", "The model's service sent something unreadable."),
    "output_too_large": ("upstream_malformed", "The answer was larger than allowed."),
    "not_recorded": ("upstream_rejected", "There is no recorded exchange of this request."),
    "store_away": ("store_lost", "The answer could not be stored."),
    "store_full": ("overloaded", "The store is full."),
    "internal": ("internal", "Something went wrong on our side."),
}


def describe(kind: FailureKind, retry_after_ms: int | None = None) -> ErrorBody:
    """The error that a user sees for a failure of this kind."""
    code, message = _CODES[kind]
    return error_body(code, message, retry_after_ms)


def error_body(
    code: ErrorCode, message: str, retry_after_ms: int | None = None, upgrade_url: str | None = None
) -> ErrorBody:
    """An error with the usual advice of its code."""
    return ErrorBody(
        code=code,
        message=message,
        retry=RETRY_ADVICE[code],
        retry_after_ms=retry_after_ms,
        upgrade_url=upgrade_url,
    )
