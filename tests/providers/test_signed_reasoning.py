"""Signed reasoning comes in pieces and goes back whole, though its text is stored once."""

from typing import Any

import pytest

from turnwire.providers.signed_reasoning import ITEMS_MAX, SignedReasoning, restored

OPENROUTER = [
    {"type": "reasoning.text", "text": "Hm", "index": 0, "id": None, "format": "f"},
    {"type": "reasoning.text", "text": ", so.", "index": 0, "id": "r1"},
    {"type": "reasoning.text", "signature": "s1", "index": 0},
    {"type": "reasoning.encrypted", "data": "abc", "index": 1},
    {"type": "reasoning.encrypted", "data": "def", "index": 1},
    {"type": "reasoning.summary", "summary": "In short.", "index": 2},
]
LITELLM = [
    {"type": "thinking", "thinking": "Hm", "signature": None},
    {"type": "thinking", "thinking": "", "signature": "s1"},
    {"type": "thinking", "thinking": ", so.", "signature": ""},
    {"type": "thinking", "thinking": "", "signature": "s2"},
    {"type": "redacted_thinking", "data": "d"},
]


def signed(pieces: list[dict[str, Any]]) -> SignedReasoning:
    reasoning = SignedReasoning()
    for piece in pieces:
        reasoning.add(piece)
    return reasoning


def test_pieces_of_one_place_are_one_item() -> None:
    assert signed(OPENROUTER).items == [
        {"type": "reasoning.text", "text": "Hm, so.", "index": 0, "id": "r1", "format": "f", "signature": "s1"},
        {"type": "reasoning.encrypted", "data": "abcdef", "index": 1},
        {"type": "reasoning.summary", "summary": "In short.", "index": 2},
    ]


def test_without_places_a_signature_ends_an_item() -> None:
    assert signed(LITELLM).items == [
        {"type": "thinking", "thinking": "Hm", "signature": "s1"},
        {"type": "thinking", "thinking": ", so.", "signature": "s2"},
        {"type": "redacted_thinking", "data": "d"},
    ]


@pytest.mark.parametrize(
    ("pieces", "thought"), [(OPENROUTER, "Hm, so.In short."), (LITELLM, "Hm, so."), (OPENROUTER, "else"), ([], "")]
)
def test_what_was_stored_is_restored(pieces: list[dict[str, Any]], thought: str) -> None:
    reasoning = signed(pieces)
    stored = reasoning.state(thought)
    assert restored(stored, thought) == reasoning.items
    assert ("Hm" in str(stored)) is (thought == "else")


def test_items_are_bounded() -> None:
    assert len(signed([{"type": str(number)} for number in range(ITEMS_MAX + 5)]).items) == ITEMS_MAX
