"""The tables inside a [models.NAME] table, each a few values that belong together."""

from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from turnwire.settings.kinds import Frozen, Millis, Whole

USD_MAX = 1_000_000


def _dollars(value: Any) -> Decimal:
    """Exactly the digits that were written: 0.1 is a tenth, not the float next to it."""
    try:
        amount = Decimal(str(value)) if not isinstance(value, bool) else Decimal("NaN")
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or not 0 <= amount <= USD_MAX:
        raise ValueError(f"must be a number of dollars from 0 to {USD_MAX}")
    return amount


Dollars = Annotated[Decimal, BeforeValidator(_dollars), PlainSerializer(float)]


class DeadlineSettings(Frozen):
    """In ms, as in ports.Deadlines: one connecting and all of them, first content, between content, the whole step."""

    connect: Millis = 5_000
    connect_total: Millis = 12_000
    first_content: Millis = 30_000
    idle: Millis = 30_000
    total: Annotated[Whole, Field(ge=1_000, le=86_400_000)] = 600_000


class RetrySettings(Frozen):
    """As in ports.Retries. `budget_percent` 1000 bounds nothing that `attempts_max` does not."""

    attempts_max: Annotated[Whole, Field(ge=1, le=10)] = 4
    wait_first_ms: Annotated[Whole, Field(ge=1, le=60_000)] = 500
    wait_ms_max: Annotated[Whole, Field(ge=1, le=60_000)] = 8_000
    budget_percent: Annotated[Whole, Field(ge=0, le=1_000)] = 10
    failures_max: Annotated[Whole, Field(ge=0, le=1_000)] = 5


class PriceSettings(Frozen):
    """Dollars for a million tokens; `cached_input` absent: as other input."""

    input: Dollars
    output: Dollars
    cached_input: Dollars | None = None


class RecordedSettings(Frozen):
    """Of a model whose answers come out of files: whose answers they are, where they are, and how fast they come."""

    provider: Literal["openai_chat", "openai_responses", "anthropic_messages"]
    folder: Path
    timing: bool = False


class BudgetSettings(Frozen):
    """What one turn may spend: tokens of input and output together, dollars, or both."""

    tokens: Annotated[Whole, Field(ge=1, le=1_000_000_000)] | None = None
    usd: Dollars | None = None

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.tokens is None and self.usd is None:
            raise ValueError("must have tokens, usd or both")
        return self
