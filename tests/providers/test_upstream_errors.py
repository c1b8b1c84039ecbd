"""Statuses and error bodies become the right kind of failure, with the right advice, and without their words."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from turnwire.providers.upstream_errors import RETRY_AFTER_MS_MAX, failure_of_status, retry_after_ms

NOW = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "kind", "may_retry"),
    [
        (204, "malformed", True),
        (301, "upstream_rejected", False),
        (400, "upstream_rejected", False),
        (401, "upstream_unauthorised", False),
        (403, "upstream_unauthorised", False),
        (404, "upstream_rejected", False),
        (408, "upstream_busy", True),
        (409, "upstream_busy", True),
        (413, "upstream_rejected", False),
        (422, "upstream_rejected", False),
        (429, "upstream_busy", True),
        (498, "upstream_busy", True),
        (500, "upstream_failed", True),
        (502, "upstream_failed", True),
        (503, "upstream_busy", True),
        (529, "upstream_busy", True),
    ],
)
def test_a_status_has_its_kind_and_its_advice(status: int, kind: str, may_retry: bool) -> None:
    failure = failure_of_status(status, {}, b"", NOW)
    assert (failure.kind, failure.may_retry, failure.retry_after_ms) == (kind, may_retry, None)


@pytest.mark.parametrize(
    ("status", "said", "may_retry"), [(400, "true", True), (500, "FALSE", False), (500, "?", True)]
)
def test_the_service_s_own_advice_goes_first(status: int, said: str, may_retry: bool) -> None:
    assert failure_of_status(status, {"x-should-retry": said}, b"", NOW).may_retry is may_retry


def test_a_429_for_an_empty_purse_is_no_rate_limit() -> None:
    body = json.dumps({"error": {"message": "You exceeded your quota", "type": "insufficient_quota"}}).encode()
    failure = failure_of_status(429, {"retry-after": "1"}, body, NOW)
    assert (failure.kind, failure.may_retry) == ("upstream_rejected", False)


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (
            {"code": "context_length_exceeded", "type": "invalid_request_error"},
            "context_length_exceeded invalid_request_error",
        ),
        ({"code": 17, "type": "my secret prompt"}, "17"),
        ({"code": "x" * 65, "message": "my secret prompt", "type": None}, ""),
        ({"code": "secret", "type": "sk-1234567890", "status": 4111111111111111}, ""),
        ("my secret prompt", ""),
    ],
)
def test_only_known_names_of_an_error_body_get_into_the_log(error: Any, detail: str) -> None:
    failure = failure_of_status(400, {}, json.dumps({"error": error}).encode(), NOW)
    assert failure.detail == f"status 400 {detail}".strip()


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"error": ', b"[]", b"3", b'{"error": null}', b"\xff"])
def test_an_unreadable_error_body_changes_nothing(body: bytes) -> None:
    failure = failure_of_status(500, {}, body, NOW)
    assert (failure.kind, failure.detail) == ("upstream_failed", "status 500")


@pytest.mark.parametrize(
    ("headers", "expected_ms"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2_000),
        ({"retry-after": "0.25"}, 250),
        ({"retry-after": "-5"}, 0),
        ({"retry-after": "9e99"}, RETRY_AFTER_MS_MAX),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1_500),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9_000),
        ({"retry-after": "Fri, 20 Nov 2026 12:00:30 GMT"}, 30_000),
        ({"retry-after": "Fri, 20 Nov 2026 12:00:30 -0000"}, 30_000),
        ({"retry-after": "Fri, 20 Nov 2026 11:00:00 GMT"}, 0),
        # The service's clock is an hour fast: what counts is the difference between its two times.
        ({"retry-after": "Fri, 20 Nov 2026 13:00:04 GMT", "date": "Fri, 20 Nov 2026 13:00:00 GMT"}, 4_000),
        ({"retry-after": "Fri, 99 Nov 2026 12:00:30 GMT"}, None),
    ],
)
def test_retry_after_is_read_in_each_of_its_forms(headers: dict[str, str], expected_ms: int | None) -> None:
    assert retry_after_ms(headers, NOW) == expected_ms
