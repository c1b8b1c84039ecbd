"""Codes and the advice that goes with them."""

from typing import get_args

import pytest

from turnwire_protocol.codes import LAST_ERRORS, RETRY_ADVICE, CloseCode, ErrorCode, may_reconnect


def test_every_error_code_has_its_advice() -> None:
    assert list(RETRY_ADVICE) == list(get_args(ErrorCode))


def test_every_close_of_ours_has_its_error_but_for_those_who_do_not_read() -> None:
    ours = {code for code in CloseCode if code >= 4000}
    assert ours - LAST_ERRORS.keys() == {CloseCode.NO_PONG, CloseCode.TOO_SLOW}
    assert ours >= LAST_ERRORS.keys()
    assert set().union(*LAST_ERRORS.values()) <= RETRY_ADVICE.keys()


@pytest.mark.parametrize(
    ("close_code", "comes_back"),
    [
        (1000, True),
        (1001, True),
        (1006, True),
        (1009, False),
        (1012, True),
        (1013, True),
        (3999, True),
        (4000, False),
        (CloseCode.BAD_FRAME, False),
        (CloseCode.TOO_LARGE, False),
        (4499, False),
        (4500, True),
        (CloseCode.TOO_SLOW, True),
        (4999, True),
    ],
)
def test_a_client_comes_back_by_the_range_of_the_code(close_code: int, comes_back: bool) -> None:
    assert may_reconnect(close_code) is comes_back


def test_what_would_come_again_is_not_closed_with_a_code_that_brings_the_client_back() -> None:
    """A frame that is refused for itself would be sent again, for ever."""
    for code, errors in LAST_ERRORS.items():
        if any(RETRY_ADVICE[error] == "none" for error in errors) and code != CloseCode.HELLO_TIMEOUT:
            assert not may_reconnect(code), code
