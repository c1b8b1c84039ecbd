"""Reasoning that a gateway wants back as it came: a list of items with texts, ciphertexts and signatures.

Pure. OpenRouter calls the list `reasoning_details`, LiteLLM `thinking_blocks`. Its items come in pieces beside the
reasoning's text. They are stored without that text, which the reasoning part has already.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

SIGNED_LISTS: Final = ("reasoning_details", "thinking_blocks")
ITEMS_MAX: Final = 256

_TEXTS: Final = ("text", "summary", "thinking")
_PIECEWISE: Final = frozenset([*_TEXTS, "data"])
"""Fields that come in pieces; the others come whole."""


class SignedReasoning:
    """One such list, as it comes."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []

    def add(self, piece: Mapping[str, Any]) -> str:
        """Take a piece of an item, or a new one; the piece as text, for whoever counts."""
        newest = self.items[-1] if self.items else None
        if newest is not None and _goes_on(newest, piece):
            _join(newest, piece)
        elif len(self.items) < ITEMS_MAX:
            self.items.append(dict(piece))
        return orjson.dumps(piece).decode()

    def state(self, thought: str) -> list[dict[str, Any]]:
        """The items to be stored. Where their texts together are `thought`, only their lengths are."""
        if "".join(item[name] for item in self.items for name in _texts_of(item)) != thought:
            return self.items
        return [{**item, **{name: len(item[name]) for name in _texts_of(item)}} for item in self.items]


def restored(items: Sequence[Mapping[str, Any]], thought: str) -> list[dict[str, Any]]:
    """The items as they came, from what SignedReasoning.state said of them."""
    whole: list[dict[str, Any]] = []
    start = 0
    for item in items:
        value = dict(item)
        for name in _TEXTS:
            length = value.get(name)
            if isinstance(length, int):
                value[name] = thought[start : start + length]
                start += length
        whole.append(value)
    return whole


def _texts_of(item: Mapping[str, Any]) -> list[str]:
    return [name for name in _TEXTS if isinstance(item.get(name), str)]


def _goes_on(item: Mapping[str, Any], piece: Mapping[str, Any]) -> bool:
    """Whether `piece` belongs to `item`: of one sort and at one place. Without places, a signature ends an item."""
    if item.get("type") != piece.get("type") or item.get("index") != piece.get("index"):
        return False
    return item.get("index") is not None or not item.get("signature")


def _join(item: dict[str, Any], piece: Mapping[str, Any]) -> None:
    for name, value in piece.items():
        before = item.get(name)
        if name in _PIECEWISE and isinstance(before, str) and isinstance(value, str):
            item[name] = before + value
        elif value is not None and value != "":
            item[name] = value
