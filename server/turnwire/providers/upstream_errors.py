"""What a model's service says went wrong becomes a Failure: its kind, whether to try again, and when.

Pure. The words of an error body are never passed on, for they may repeat the prompt or the key: only its code and type
are, and only those that are known here. The advice follows what the services' own libraries do: 408, 409, 429 and 5xx
are worth another try, the header `x-should-retry` overrules that, `retry-after-ms` goes before `retry-after`.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Any, Final, cast

import orjson

from turnwire.core.errors import FailureKind
from turnwire.ports import Failure

RETRY_AFTER_MS_MAX: Final = 86_400_000

_BUSY: Final = frozenset([408, 409, 429, 498, 503, 529])
"""498 is Groq's (no flex capacity), 529 Anthropic's and others' (overloaded)."""

_OUT_OF_PURSE: Final = frozenset(
    [
        "billing_error",  # Anthropic
        "billing_hard_limit_reached",  # OpenAI
        "insufficient_credits",
        "insufficient_quota",  # OpenAI, Azure
    ]
)
"""Comes with status 429, as a rate limit does, or 400 or 402; waiting does not help."""

_KINDS: Final[Mapping[str, FailureKind]] = {
    **dict.fromkeys(
        [
            "UNAVAILABLE",  # Gemini
            "RESOURCE_EXHAUSTED",  # Gemini
            "engine_overloaded",
            "engine_overloaded_error",
            "overloaded",
            "overloaded_error",  # Anthropic
            "rate_limit_error",  # Anthropic
            "rate_limit_exceeded",  # OpenAI
            "rate_limited",  # Mistral
            "server_is_overloaded",  # OpenAI Responses
            "service_unavailable",
            "slow_down",  # OpenAI
            "too_many_requests",
        ],
        "upstream_busy",
    ),
    **dict.fromkeys(
        [
            # Anthropic, and OpenAI where it is not told apart
            "invalid_request_error",
            "not_found_error",
            "request_too_large",
            # OpenAI, Azure and those that follow them
            "content_filter",
            "content_policy_violation",
            "context_length_exceeded",
            "model_not_found",
            # llama.cpp
            "exceed_context_size_error",
            # Gemini
            "FAILED_PRECONDITION",
            "INVALID_ARGUMENT",
            "NOT_FOUND",
            # OpenAI Responses
            "bio_policy",
            "data_residency_mismatch",
            "empty_image_file",
            "failed_to_download_image",
            "image_content_policy_violation",
            "image_file_not_found",
            "image_file_too_large",
            "image_parse_error",
            "image_too_large",
            "image_too_small",
            "invalid_base64_image",
            "invalid_image",
            "invalid_image_format",
            "invalid_image_mode",
            "invalid_image_url",
            "invalid_prompt",
            "misalignment_policy_violation",
            "unsupported_image_media_type",
        ],
        "upstream_rejected",
    ),
    **dict.fromkeys(
        ["PERMISSION_DENIED", "UNAUTHENTICATED", "authentication_error", "invalid_api_key", "permission_error"],
        "upstream_unauthorised",
    ),
    # Groq, with status 400: the model wrote a call that cannot be read. Asked again, it mostly writes a better one.
    "tool_use_failed": "upstream_failed",
}
"""By an error's code, type or status; what is not here failed for reasons of the service's own."""

_TOLD: Final = frozenset(
    [
        *_KINDS,
        *_OUT_OF_PURSE,
        *("api_error", "internal_error", "internal_server_error", "server_error", "timeout_error", "DEADLINE_EXCEEDED"),
        *("BadRequestError", "INTERNAL", "InternalServerError", "NotFoundError", "invalid_type", "invalid_value"),
        *("missing_required_parameter", "unknown_parameter", "unsupported_parameter", "unsupported_value"),
    ]
)
"""What a log may repeat: words of services, and of nobody else. Any other name could be a word of the prompt."""

_NAMES: Final = ("code", "type", "status", "status_code")
_TOLD_DIGITS_MAX: Final = 5
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def failure_of_status(status: int, headers: Mapping[str, str], body: bytes, now: datetime) -> Failure:
    """The failure that an answer other than 200 means. `headers` by lower-case name; `body` may be cut short."""
    error = _error_in(body)
    names = _names_in(error)
    kind = _kind_of_status(status)
    if _OUT_OF_PURSE & set(names):
        kind = "upstream_rejected"
    elif "tool_use_failed" in names:
        kind = _KINDS["tool_use_failed"]
    may_retry: bool | None = None
    match headers.get("x-should-retry", "").strip().lower():
        case "true":
            may_retry = True
        case "false":
            may_retry = False
        case _:
            pass
    asked_ms = retry_after_ms(headers, now)
    return Failure(
        kind,
        " ".join([f"status {status}", *_told(names)]),
        retry_after_ms=_retry_delay_ms(error) if asked_ms is None else asked_ms,
        may_retry=may_retry,
    )


def failure_of_error(error: Any) -> Failure:
    """The failure that an error object inside an answer of status 200 means."""
    names = _names_in(error)
    detail = " ".join(["an error inside the stream", *_told(names)])
    if _OUT_OF_PURSE & set(names):
        return Failure("upstream_rejected", detail)
    for name in names:
        if name.isdecimal() and 400 <= int(name) <= 599:
            return Failure(_kind_of_status(int(name)), detail)
        if name in _KINDS:
            return Failure(_KINDS[name], detail)
    return Failure("upstream_failed", detail)


def retry_after_ms(headers: Mapping[str, str], now: datetime) -> int | None:
    """How long the service asks to be left alone, at most a day; None when it does not say, or not readably."""
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is None:
        text = headers.get("retry-after", "")
        seconds = _number(text)
        if seconds is None:
            seconds = _seconds_until(text, headers.get("date", ""), now)
        milliseconds = None if seconds is None else seconds * 1000
    return None if milliseconds is None else _bounded_ms(milliseconds)


def _bounded_ms(milliseconds: float) -> int:
    return round(min(max(milliseconds, 0), RETRY_AFTER_MS_MAX))


def _kind_of_status(status: int) -> FailureKind:
    if status in (401, 403):
        return "upstream_unauthorised"
    if status in _BUSY:
        return "upstream_busy"
    if status >= 500:
        return "upstream_failed"
    # Another 2xx is no stream of events; 3xx would lead the key to another host.
    return "malformed" if status < 300 else "upstream_rejected"


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if isfinite(number) else None


def _seconds_until(text: str, date: str, now: datetime) -> float | None:
    """From an HTTP date. The service's own Date is what it counts from: its clock may differ from ours."""
    until = _http_date(text)
    return None if until is None else (until - (_http_date(date) or now)).total_seconds()


def _http_date(text: str) -> datetime | None:
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    # A date with the zone -0000 comes back naive; it is meant as UTC.
    return when if when.tzinfo is not None else when.replace(tzinfo=UTC)


def _error_in(body: bytes) -> Any:
    """The error of a body: at its top, under `error`, or, as Gemini has it, under `error` in a list."""
    try:
        value: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if isinstance(value, list) and value:
        value = cast("list[Any]", value)[0]
    return cast("dict[str, Any]", value).get("error", value) if isinstance(value, dict) else None


def _names_in(error: Any) -> list[str]:
    """An error's code, type and status, as far as they are identifiers or numbers."""
    if not isinstance(error, dict):
        return []
    known = cast("dict[str, Any]", error)
    values = [str(known[key]) for key in _NAMES if isinstance(known.get(key), str | int)]
    return [value for value in values if _IDENTIFIER.fullmatch(value)]


def _told(names: list[str]) -> list[str]:
    """Of an error's names, those that a log may have."""
    return [name for name in names if name in _TOLD or (name.isdecimal() and len(name) <= _TOLD_DIGITS_MAX)]


def _retry_delay_ms(error: Any) -> int | None:
    """How long Google's services ask to be left alone: they say so among an error's details."""
    details = cast("dict[str, Any]", error).get("details") if isinstance(error, dict) else None
    for detail in cast("list[Any]", details) if isinstance(details, list) else []:
        delay = cast("dict[str, Any]", detail).get("retryDelay") if isinstance(detail, dict) else None
        seconds = _number(delay.removesuffix("s")) if isinstance(delay, str) else None
        if seconds is not None:
            return _bounded_ms(seconds * 1000)
    return None
