"""What a model's service says went wrong becomes a Failure: its kind, whether to try again, and when.

Pure. The words of an error body are never passed on, for they may repeat the prompt: only its code and type are, and
only if they look like identifiers. The advice follows what the services' own libraries do: 408, 409, 429 and 5xx are
worth another try, the header `x-should-retry` overrules that, `retry-after-ms` goes before `retry-after`.
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

_BUSY_NAMES: Final = frozenset(
    [
        "engine_overloaded",
        "engine_overloaded_error",
        "overloaded",
        "overloaded_error",
        "rate_limit_error",
        "rate_limit_exceeded",
        "rate_limited",
        "server_is_overloaded",
        "too_many_requests",
    ]
)
_REJECTED_NAMES: Final = frozenset(
    [
        "content_filter",
        "content_policy_violation",
        "context_length_exceeded",
        "exceed_context_size_error",
        "invalid_prompt",
        "invalid_request_error",
        "model_not_found",
        "not_found_error",
    ]
)
_UNAUTHORISED_NAMES: Final = frozenset(["authentication_error", "invalid_api_key", "permission_error"])
_OUT_OF_QUOTA: Final = "insufficient_quota"
"""Comes with status 429, as a rate limit does, but waiting does not help."""

_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def failure_of_status(status: int, headers: Mapping[str, str], body: bytes, now: datetime) -> Failure:
    """The failure that an answer other than 200 means. `headers` by lower-case name; `body` may be cut short."""
    names = _names_in(_error_in(body))
    kind = _kind_of_status(status)
    may_retry: bool | None = None
    if _OUT_OF_QUOTA in names:
        kind = "upstream_rejected"
    match headers.get("x-should-retry", "").strip().lower():
        case "true":
            may_retry = True
        case "false":
            may_retry = False
        case _:
            pass
    detail = " ".join([f"status {status}", *names])
    return Failure(kind, detail, retry_after_ms=retry_after_ms(headers, now), may_retry=may_retry)


def failure_of_error(error: Any) -> Failure:
    """The failure that an error object inside an answer of status 200 means."""
    names = _names_in(error)
    detail = " ".join(["an error inside the stream", *names])
    if _OUT_OF_QUOTA in names:
        return Failure("upstream_rejected", detail)
    for name in names:
        if name.isdecimal() and 400 <= int(name) <= 599:
            return Failure(_kind_of_status(int(name)), detail)
        if name in _UNAUTHORISED_NAMES:
            return Failure("upstream_unauthorised", detail)
        if name in _REJECTED_NAMES:
            return Failure("upstream_rejected", detail)
        if name in _BUSY_NAMES:
            return Failure("upstream_busy", detail)
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
    return None if milliseconds is None else round(min(max(milliseconds, 0), RETRY_AFTER_MS_MAX))


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
    try:
        value: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return cast("dict[str, Any]", value).get("error", value) if isinstance(value, dict) else None


def _names_in(error: Any) -> list[str]:
    """An error's code and type, as far as they are identifiers or numbers."""
    if not isinstance(error, dict):
        return []
    known = cast("dict[str, Any]", error)
    values = [str(known[key]) for key in ("code", "type") if isinstance(known.get(key), str | int)]
    return [value for value in values if _IDENTIFIER.fullmatch(value)]
