"""Every failure has a sentence that is safe to show, a code and advice."""

from typing import get_args

import pytest

from turnwire.core.errors import RETRYABLE, FailureKind, describe, error_body
from turnwire_protocol.codes import RETRY_ADVICE, ErrorCode, Retry
from turnwire_protocol.values import ErrorBody

KINDS: tuple[FailureKind, ...] = get_args(FailureKind)


@pytest.mark.parametrize("kind", KINDS)
def test_every_failure_is_told_in_one_plain_sentence(kind: FailureKind) -> None:
    message = describe(kind).message
    assert message[0].isupper() and message.endswith(".") and message.count(".") == 1
    assert message.isascii() and message.isprintable()
    # A brace or a percent sign would be a template that nobody filled in; the rest smells of exceptions and addresses.
    assert not set(message) & set("{}%<>[]_\\/:@")
    assert not any(word in message for word in ("Error", "Exception", "Traceback", "None", "http"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_failure_has_a_code_with_its_usual_advice(kind: FailureKind) -> None:
    body = describe(kind)
    assert body.code in get_args(ErrorCode)
    assert body.retry == RETRY_ADVICE[body.code]
    assert body.retry in get_args(Retry)
    assert body.retry_after_ms is None and body.upgrade_url is None
    assert ErrorBody.model_validate(body.model_dump()) == body


@pytest.mark.parametrize("kind", KINDS)
def test_when_to_come_back_is_passed_on(kind: FailureKind) -> None:
    assert describe(kind, 1_500) == describe(kind).model_copy(update={"retry_after_ms": 1_500})


def test_different_failures_are_told_differently() -> None:
    assert len({describe(kind).message for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("code", get_args(ErrorCode))
def test_any_code_can_be_said_in_ones_own_words(code: ErrorCode) -> None:
    assert error_body(code, "Because.", 7) == ErrorBody(
        code=code, message="Because.", retry=RETRY_ADVICE[code], retry_after_ms=7
    )


def test_only_what_another_attempt_can_mend_is_retried() -> None:
    assert set(KINDS) >= RETRYABLE
    final = set(KINDS) - RETRYABLE
    assert final == {
        "upstream_rejected",
        "upstream_unauthorised",
        "timeout_idle",
        "timeout_total",
        "output_too_large",
        "not_recorded",
        "store_away",
        "store_full",
        "internal",
    }
    # Whatever is tried again by itself may also be tried again by the user.
    assert {describe(kind).retry for kind in RETRYABLE} == {"new_turn"}
