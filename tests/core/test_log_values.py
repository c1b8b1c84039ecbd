"""Keys of sessions and turns: an owner's session is no one else's."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.generated import ids, properly
from turnwire.core import log_values
from turnwire.core.log_values import Batch, SessionKey, Taken, TurnKey


@properly
@given(st.text(), ids, ids)
def test_a_turns_key_leads_back_to_its_session(owner: str, session: str, turn: str) -> None:
    key = SessionKey(owner, session).turn(turn)
    assert key == TurnKey(owner, session, turn)
    assert key.session_key == SessionKey(owner, session)


def test_another_owners_session_of_the_same_id_is_another_key() -> None:
    assert SessionKey("ann", "s") != SessionKey("bob", "s")
    assert len({SessionKey("ann", "s"), SessionKey("bob", "s"), SessionKey("ann", "s")}) == 2
    assert SessionKey("ann", "s").turn("t") != SessionKey("bob", "s").turn("t")


VALUES = [
    value for value in vars(log_values).values() if isinstance(value, type) and value.__module__ == log_values.__name__
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value.__name__)
def test_what_is_said_to_the_log_is_not_changed_afterwards(value: Any) -> None:
    made = object.__new__(value)
    for field in dataclasses.fields(value):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, field.name, None)
    assert not hasattr(made, "__dict__")


def test_a_batch_neither_seals_nor_parks_unless_it_is_told_to() -> None:
    batch = Batch(TurnKey("o", "s", "t"), "n", "b", 0, ())
    assert (batch.seal, batch.park_until_ms) == (None, None)


def test_two_answers_of_the_store_do_not_share_what_they_hold() -> None:
    assert Taken("taken").answers is not Taken("taken").answers
