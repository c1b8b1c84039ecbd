"""What a turn has spent: tokens step by step, what they cost, and whether that is enough.

A step's own figures hold where its service told them and its end was proved. Otherwise (a cancel, a failure, a service
that says nothing) they are estimated and so marked: of what was sent, and of what came. They are settled when the step
asks for a tool's result, and stored with that, because the next step may run on another node.

Money is decimal: a float cannot hold a price. Every price is in US dollars.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import Context, Decimal
from typing import Any, Final, Protocol

from turnwire.core.entries import UsageReport
from turnwire.core.quotas import Used, nano_of
from turnwire.core.tokens import likely_of, tokens_likely

CURRENCY: Final = "USD"
_MILLION: Final = 1_000_000
_SMALLEST: Final = Decimal("1e-12")
_LARGEST: Final = Decimal(10**18 - 1)
_EXACT: Final = Context(prec=60)
_LOOK_TOKENS: Final = 16
"""How many tokens come in before the budget is looked at again."""


class Price(Protocol):
    """What a model's tokens cost."""

    def cost_of(self, usage: UsageReport) -> Decimal:
        """In US dollars, of one request. Cached input is a part of all input, reasoning a part of all output."""
        ...


@dataclass(frozen=True, slots=True)
class Rates:
    """A Price: dollars for a million tokens. `cached_input` None: as other input."""

    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None

    def cost_of(self, usage: UsageReport) -> Decimal:
        cached = min(usage.cached_input_tokens or 0, usage.input_tokens)
        rate = self.input if self.cached_input is None else self.cached_input
        sum_ = (usage.input_tokens - cached) * self.input + cached * rate + usage.output_tokens * self.output
        return sum_ / _MILLION


@dataclass(frozen=True, slots=True)
class Budget:
    """What one turn may spend before it is ended: tokens of input and output together, dollars; None: no limit."""

    tokens: int | None = None
    usd: Decimal | None = None


def cost_as_told(amount: Decimal) -> dict[str, str]:
    """values.Cost: an exact decimal string, without zeros at its end."""
    text = f"{min(amount, _LARGEST).quantize(_SMALLEST, context=_EXACT):f}"
    return {"amount": text.rstrip("0").rstrip("."), "currency": CURRENCY}


@dataclass(frozen=True, slots=True)
class Spent:
    """Tokens of one step. `estimated`: its service did not tell, or not all of it."""

    model: str
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int | None = None
    reasoning_tokens: int | None = None
    estimated: bool = False


@dataclass(slots=True)
class _Open:
    """The step that runs."""

    model: str
    input_guess: int
    report: UsageReport | None = None
    hundredths: int = 0
    """Of the tokens that came, guessed piece by piece; counted only where there is a budget."""
    look_at: int = 0

    def settled(self, text: str, proved: bool) -> Spent:
        """`text` is all that the step has said. `proved`: it has ended by itself."""
        report = self.report
        if report is None:
            return Spent(self.model, self.input_guess, tokens_likely(text), estimated=True)
        cached, reasoning = report.cached_input_tokens, report.reasoning_tokens
        if proved:
            return Spent(self.model, report.input_tokens, report.output_tokens, cached, reasoning)
        output_tokens = max(report.output_tokens, tokens_likely(text))
        return Spent(self.model, report.input_tokens or self.input_guess, output_tokens, cached, reasoning, True)


class Spending:
    """One turn's. `prices` are by model name; a model that is not there costs nobody knows what."""

    def __init__(self, prices: Mapping[str, Price], budget: Budget | None = None) -> None:
        self._prices = prices
        self._budget = budget
        self._settled: list[Spent] = []
        self._open: _Open | None = None
        self._guess = 0

    # --- what happens ---------------------------------------------------------------------------------------------

    def expect(self, input_tokens_guess: int) -> None:
        """What the next request is guessed to have as input."""
        self._guess = input_tokens_guess

    def begin(self, model: str) -> dict[str, Any]:
        """A request of the step goes out; what an earlier attempt reported is forgotten. What to keep of it."""
        self._open = _Open(model, self._guess)
        return {"input_tokens": self._guess}

    def report(self, report: UsageReport) -> None:
        if self._open is not None:
            self._open.report = report
            self._open.look_at = 0

    def add(self, hundredths: int) -> None:
        """A piece of the answer came; see tokens.hundredths_of."""
        if self._open is not None:
            self._open.hundredths += hundredths

    def settle(self, text: str) -> dict[str, Any]:
        """The step's end was proved. What to keep of it."""
        assert self._open is not None  # noqa: S101 - for the type checker: a step that is settled was begun
        spent = self._open.settled(text, proved=True)
        self._settled.append(spent)
        self._open = None
        return asdict(spent)

    # --- taking over ----------------------------------------------------------------------------------------------

    def begun(self, model: str, kept: Mapping[str, Any]) -> None:
        """Another writer's request, with what it kept of it."""
        self._open = _Open(model, kept.get("input_tokens", 0))

    def was_settled(self, kept: Mapping[str, Any]) -> None:
        """Another writer's step, as it kept it."""
        self._settled.append(Spent(**kept))
        self._open = None

    # --- what is known --------------------------------------------------------------------------------------------

    def overspent(self) -> bool:
        """Whether the turn has spent its budget, by what is known in the middle of a step."""
        budget, running = self._budget, self._open
        if budget is None:
            return False
        steps = list(self._settled)
        if running is not None:
            output_tokens = likely_of(running.hundredths)
            if output_tokens < running.look_at:
                return False
            running.look_at = output_tokens + _LOOK_TOKENS
            report = running.report or UsageReport(0, 0)
            output_tokens = max(report.output_tokens, output_tokens)
            steps.append(Spent(running.model, report.input_tokens or running.input_guess, output_tokens))
        if budget.tokens is not None and sum(s.input_tokens + s.output_tokens for s in steps) >= budget.tokens:
            return True
        cost = None if budget.usd is None else self._cost_of(steps)
        return cost is not None and budget.usd is not None and cost >= budget.usd

    def used(self, text: str, *, proved: bool) -> Used:
        """What quotas are told. As `settled`, for the last step; money as far as prices are known."""
        steps = self._steps(text, proved)
        cost = self._cost_of(steps)
        tokens = sum(step.input_tokens + step.output_tokens for step in steps)
        return Used(tokens, 0 if cost is None else nano_of(cost))

    def as_told(self, text: str, *, proved: bool) -> dict[str, Any]:
        """`usage` of a terminal, and `cost` where every step's model has a price. As `settled`, for the last step."""
        steps = self._steps(text, proved)
        usage: dict[str, Any] = {
            "input_tokens": sum(step.input_tokens for step in steps),
            "output_tokens": sum(step.output_tokens for step in steps),
            "estimated": any(step.estimated for step in steps),
        }
        for name in ("cached_input_tokens", "reasoning_tokens"):
            told = [value for step in steps if (value := getattr(step, name)) is not None]
            if told:
                usage[name] = sum(told)
        cost = self._cost_of(steps)
        return {"usage": usage} if cost is None else {"usage": usage, "cost": cost_as_told(cost)}

    def _steps(self, text: str, proved: bool) -> list[Spent]:
        return [*self._settled, *([] if self._open is None else [self._open.settled(text, proved)])]

    def _cost_of(self, steps: list[Spent]) -> Decimal | None:
        if not self._prices:
            return None
        cost = Decimal(0)
        for step in steps:
            price = self._prices.get(step.model)
            if price is None:
                return None
            report = UsageReport(step.input_tokens, step.output_tokens, step.cached_input_tokens, step.reasoning_tokens)
            cost += price.cost_of(report)
        return cost
