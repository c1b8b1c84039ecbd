"""Kinds of values that several settings share, and what all groups of settings have in common."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _whole(value: object) -> object:
    """True is no 1 and 1.5 is no 1: as text they are refused with the same words as any other text."""
    return str(value) if isinstance(value, bool | float) else value


def listed(value: object) -> object:
    """A list may be one text with commas, as in the environment."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Whole = Annotated[int, BeforeValidator(_whole)]
Millis = Annotated[Whole, Field(ge=100, le=3_600_000)]
Count = Annotated[Whole, Field(ge=1, le=1_000_000)]
Texts = Annotated[tuple[str, ...], BeforeValidator(listed)]


class Frozen(BaseModel):
    """Base of all groups: read once, unknown names refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)
