"""Who may refuse a turn for what it asks: settings of the guard."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from turnwire.settings.kinds import Frozen, Whole


class GuardSettings(Frozen):
    """`input_guard` is `module:name`; what is not set asks nobody."""

    input_guard: str | None = None
    input_guard_ms: Annotated[Whole, Field(ge=10, le=60_000)] = 2_000
    input_guard_fails: Literal["closed", "open"] = "closed"
    """What becomes of a turn about which the guard did not answer in time or at all: refused, or accepted."""

    @field_validator("input_guard")
    @classmethod
    def _place(cls, value: str | None) -> str | None:
        module, _, path = (value or "module:name").partition(":")
        if not all(name.isidentifier() for name in (*module.split("."), *path.split("."))):
            raise ValueError('must name a module and what to call in it, as in "shop.guard:check"')
        return value
