"""A guard's word: what the wire can carry, and nothing else."""

from typing import Any

import pytest

from turnwire.core.errors import error_body
from turnwire.core.proposal import CODES, MESSAGE_CHARS_MAX, Refusal


@pytest.mark.parametrize("code", CODES)
def test_a_refusal_fits_into_an_error_of_its_code(code: Any) -> None:
    refusal = Refusal("x" * MESSAGE_CHARS_MAX, code, 5)
    assert error_body(refusal.code, refusal.message, refusal.retry_after_ms).code == code


@pytest.mark.parametrize(
    "values",
    [
        ("",),
        ("x" * (MESSAGE_CHARS_MAX + 1),),
        ("two\nlines",),
        ("\ud800",),
        ("no", "turn_conflict"),
        ("no", "rate_limited", -1),
        ("no", "rate_limited", 86_400_001),
    ],
    ids=repr,
)
def test_what_the_wire_does_not_take_is_none(values: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="a refusal's"):
        Refusal(*values)
