"""The digest is the same for what says the same, and another for anything else."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.generated import COMMANDS, create, properly, said
from turnwire_protocol.codec import validate_command
from turnwire_protocol.commands import TurnCreate
from turnwire_protocol.fingerprint import digest_of

CARRIAGE = {
    "id": "c9",
    "on_busy": "queue",
    "on_disconnect": "cancel",
    "cancel_after_ms": 5,
    "unknown": {"deep": [1]},
}
"""Fields that say how a turn is carried, and what nobody knows."""

CONTENT: dict[str, Any] = {
    "input": [said("hello!")],
    "parent": "t0",
    "model": "m",
    "params": {"temperature": 0.5},
    "tools": [{"name": "f"}],
    "response_format": {"type": "json"},
}


def digest(frame: dict[str, Any]) -> str:
    command = validate_command(frame)
    assert isinstance(command, TurnCreate)
    return digest_of(command)


def test_every_field_either_counts_or_is_known_not_to() -> None:
    place = {"type", "session", "turn"}
    assert set(TurnCreate.model_fields) == place | (set(CARRIAGE) - {"unknown"}) | set(CONTENT) | {"again"}


@pytest.mark.parametrize("name", CARRIAGE)
def test_how_a_turn_is_carried_does_not_change_its_digest(name: str) -> None:
    assert digest(create(**{name: CARRIAGE[name]})) == digest(create())


@pytest.mark.parametrize("name", CONTENT)
def test_what_a_turn_says_changes_its_digest(name: str) -> None:
    assert digest(create(**{name: CONTENT[name]})) != digest(create())


def test_again_changes_the_digest() -> None:
    first, second = create(again="t1"), create(again="t2")
    del first["input"], second["input"]
    assert len({digest(first), digest(second), digest(create())}) == 3


def test_a_null_is_as_good_as_nothing_but_for_parent() -> None:
    nulls = create(model=None, params=None, tools=None, response_format=None, again=None)
    assert digest(nulls) == digest(create())
    assert digest(create(tools=[{"name": "f", "description": None}])) == digest(create(tools=[{"name": "f"}]))
    assert digest(create(parent=None)) != digest(create())


def test_a_null_within_free_json_counts() -> None:
    assert digest(create(params={"stop": None})) != digest(create(params={}))


def test_order_and_spelling_of_numbers_do_not_count() -> None:
    assert digest(create(params={"a": 1, "b": [2.0]})) == digest(create(params={"b": [2], "a": 1.0}))
    assert digest(create(params={"a": -0.0})) == digest(create(params={"a": 0}))


def test_a_number_is_neither_its_text_nor_a_truth() -> None:
    assert len({digest(create(params={"a": value})) for value in (1, "1", True, [1])}) == 4


def test_the_digest_is_what_it_was_when_turns_were_stored() -> None:
    """Digests outlive a deploy: a change of this one makes a conflict of every turn that is sent again."""
    frame = create(
        parent=None,
        model="m",
        params={"temperature": 0.5, "seed": 7, "stop": ["é", None]},
        tools=[{"name": "f", "parameters": {"type": "object"}}],
    )
    assert digest(frame) == "d828004fa33fdd2a83295e2a8c4cb15901741b5f912ce68342622d3bd7371179"


@properly
@given(COMMANDS["turn.create"], st.randoms(use_true_random=False))
def test_the_order_of_fields_does_not_count(frame: dict[str, Any], random: Any) -> None:
    names = list(frame)
    random.shuffle(names)
    assert digest({name: frame[name] for name in names}) == digest(frame)
