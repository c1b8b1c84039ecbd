"""What may be changed of a session at rest."""

from typing import Any

import pytest

from turnwire_protocol.at_rest import SessionPatch, validate_body
from turnwire_protocol.codec import FrameRefused
from turnwire_protocol.limits import METADATA_BYTES_MAX, TITLE_CHARS_MAX, VALUE_KEYS_MAX


def test_what_is_not_set_is_told_apart_from_null() -> None:
    nothing = validate_body(SessionPatch, {})
    assert nothing.model_fields_set == set()
    removed = validate_body(SessionPatch, {"title": None})
    assert (removed.model_fields_set, removed.title) == ({"title"}, None)
    both = validate_body(SessionPatch, {"title": "☁" * TITLE_CHARS_MAX, "metadata": {}})
    assert both.model_fields_set == {"title", "metadata"}


def test_metadata_may_be_as_large_as_it_says() -> None:
    largest = {"a": "x" * (METADATA_BYTES_MAX - len('{"a":""}'))}
    assert validate_body(SessionPatch, {"metadata": largest}).metadata == largest
    with pytest.raises(FrameRefused, match=f"metadata: it has {METADATA_BYTES_MAX + 1} bytes as JSON"):
        validate_body(SessionPatch, {"metadata": {"a": largest["a"] + "x"}})


@pytest.mark.parametrize(
    ("patch", "field"),
    [
        ({"title": ""}, "title"),
        ({"title": "x" * (TITLE_CHARS_MAX + 1)}, "title"),
        ({"title": 7}, "title"),
        ({"title": ["x"]}, "title"),
        ({"metadata": None}, "metadata"),
        ({"metadata": []}, "metadata"),
        ({"metadata": "{}"}, "metadata"),
        ({"metadata": {f"k{number}": 1 for number in range(VALUE_KEYS_MAX + 1)}}, "metadata"),
        ({"metadata": {"é": "x" * METADATA_BYTES_MAX}}, "metadata"),
        ({"titel": "x"}, "titel"),
        ({"title": "x", "\n" * 500: 1}, r"\\n"),
    ],
)
def test_a_bad_field_is_named_in_a_sentence_that_does_not_repeat_it(patch: dict[str, Any], field: str) -> None:
    with pytest.raises(FrameRefused, match=f"^{field}") as refused:
        validate_body(SessionPatch, patch)
    assert refused.value.close is None
    assert len(refused.value.message) <= 400 and refused.value.message.isprintable()
    assert "xxx" not in refused.value.message
