"""Entries are plain values: equal when they say the same, and no place for fields that nobody declared."""

from typing import Any

import pytest

from turnwire.core.entries import Content, Delta, Event, Finish, Logged, Message, UsageReport

VALUES: list[Any] = [
    Delta("t", 0, "text", "a"),
    Event("turn.started", "t", b"{}"),
    Logged(2, 1, Delta("t", 0, "text", "a")),
    Content(0, "text", "a"),
    UsageReport(1, 2),
    Finish("stop"),
    Message("user"),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_has_the_fields_it_declares_and_no_room_for_others(value: Any) -> None:
    assert not hasattr(value, "__dict__")
    with pytest.raises((AttributeError, TypeError)):
        value.extra = 1


def test_what_a_provider_is_given_cannot_be_changed() -> None:
    message = Message("user")
    with pytest.raises(AttributeError):
        message.role = "system"  # pyright: ignore[reportAttributeAccessIssue] - on purpose


def test_two_events_do_not_share_their_fields() -> None:
    first, second = Event("turn.asked", "t", b"{}"), Event("turn.asked", "t", b"{}")
    first.fields["request"] = "r"
    assert second.fields == {}


def test_an_entry_that_is_not_stored_yet_has_no_time() -> None:
    assert Event("turn.started", "t", b"{}").at == 0
