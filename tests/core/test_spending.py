"""Tokens and money of a turn: what the services told where they did, marked estimates else, and budgets that hold."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.generated import properly
from turnwire.core.entries import UsageReport
from turnwire.core.spending import Budget, Price, Rates, Spending, cost_as_told
from turnwire.core.tokens import hundredths_of, tokens_likely
from turnwire_protocol.values import Cost

RATES = Rates(Decimal("2.5"), Decimal("10"), Decimal("1.25"))
PRICES: dict[str, Price] = {"m": RATES, "cheap": Rates(Decimal("0.1"), Decimal("0.4"))}
TEXT = "some words that were said "

counts = st.integers(0, 10**7)
prices = st.decimals(0, 10_000, places=6)


def begun(*, budget: Budget | None = None, guess: int = 100, model: str = "m") -> Spending:
    spending = Spending(PRICES, budget)
    spending.expect(guess)
    spending.begin(model)
    return spending


# --- prices -----------------------------------------------------------------------------------------------------------


def test_cached_input_has_its_own_price_and_counts_once() -> None:
    assert RATES.cost_of(UsageReport(1_000_000, 1_000_000)) == Decimal("12.5")
    assert RATES.cost_of(UsageReport(1_000_000, 0, 400_000)) == Decimal("2")
    assert Rates(Decimal(2), Decimal(0)).cost_of(UsageReport(1_000_000, 5, 400_000)) == Decimal(2)
    assert RATES.cost_of(UsageReport(10, 0, 20)) == Decimal("0.0000125")


@pytest.mark.parametrize(
    ("amount", "told"),
    [
        ("0", "0"),
        ("0.00001230", "0.0000123"),
        ("10", "10"),
        ("100.5", "100.5"),
        ("1E-20", "0"),
        ("1E+3", "1000"),
        ("1E+30", "999999999999999999"),
    ],
)
def test_money_is_told_as_an_exact_decimal_string(amount: str, told: str) -> None:
    assert cost_as_told(Decimal(amount)) == {"amount": told, "currency": "USD"}


@properly
@given(st.integers(0, 2**53 - 1), st.integers(0, 2**53 - 1), prices, prices)
def test_every_cost_is_one_that_the_wire_takes(inputs: int, outputs: int, input_rate: Decimal, rate: Decimal) -> None:
    cost = Rates(input_rate, rate).cost_of(UsageReport(inputs, outputs))
    told = cost_as_told(cost)
    Cost.model_validate(told)
    assert abs(Decimal(told["amount"]) - cost) <= Decimal("1e-12") * max(1, cost)


# --- usage ------------------------------------------------------------------------------------------------------------


def test_a_turn_that_asked_nobody_spent_nothing() -> None:
    nothing = {"input_tokens": 0, "output_tokens": 0, "estimated": False}
    assert Spending(PRICES).as_told("", proved=False) == {"usage": nothing, "cost": cost_as_told(Decimal(0))}
    assert Spending({}).as_told("", proved=False) == {"usage": nothing}


def test_what_the_service_told_at_a_proved_end_is_told_on() -> None:
    spending = begun()
    spending.report(UsageReport(11, 3))
    spending.report(UsageReport(12, 7, 4, 5))
    assert spending.as_told(TEXT, proved=True) == {
        "usage": {
            "input_tokens": 12,
            "output_tokens": 7,
            "cached_input_tokens": 4,
            "reasoning_tokens": 5,
            "estimated": False,
        },
        "cost": cost_as_told(RATES.cost_of(UsageReport(12, 7, 4))),
    }


@pytest.mark.parametrize("proved", [True, False])
def test_a_service_that_told_nothing_has_its_usage_estimated_of_what_was_sent_and_what_came(proved: bool) -> None:
    usage = begun().as_told(TEXT, proved=proved)["usage"]
    assert usage == {"input_tokens": 100, "output_tokens": tokens_likely(TEXT), "estimated": True}


@pytest.mark.parametrize(
    ("report", "tokens"),
    [
        (UsageReport(12, 1), (12, tokens_likely(TEXT))),
        (UsageReport(12, 900), (12, 900)),
        (UsageReport(0, 900), (100, 900)),
    ],
)
def test_what_was_told_before_a_cancel_or_a_failure_is_not_all_of_it(report: UsageReport, tokens: Any) -> None:
    spending = begun()
    spending.report(report)
    usage = spending.as_told(TEXT, proved=False)["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["estimated"]) == (*tokens, True)


def test_what_a_failed_attempt_told_is_forgotten_with_it() -> None:
    spending = begun()
    spending.report(UsageReport(12, 900))
    spending.expect(50)
    spending.begin("cheap")
    assert spending.as_told("", proved=True)["usage"] == {"input_tokens": 50, "output_tokens": 0, "estimated": True}


def test_a_report_without_a_request_is_nobodys() -> None:
    spending = Spending(PRICES)
    spending.report(UsageReport(1, 1))
    spending.add(100)
    assert spending.as_told("", proved=True)["usage"]["input_tokens"] == 0


steps = st.lists(
    st.tuples(st.sampled_from(["m", "cheap"]), st.none() | st.builds(UsageReport, counts, counts, st.none() | counts)),
    min_size=1,
    max_size=5,
)


@properly
@given(steps, st.booleans())
def test_the_steps_of_a_turn_add_up_whoever_runs_them(told: list[tuple[str, UsageReport | None]], moves: bool) -> None:
    spending = Spending(PRICES)
    kept: list[dict[str, Any]] = []
    for number, (model, report) in enumerate(told):
        spending.expect(100)
        began = spending.begin(model)
        if moves:
            # Another node goes on with the step, and with all that was kept before it.
            spending = Spending(PRICES)
            for settled in kept:
                spending.was_settled(settled)
            spending.begun(model, began)
        if report is not None:
            spending.report(report)
        if number < len(told) - 1:
            kept.append(spending.settle(TEXT))
    whole = spending.as_told(TEXT, proved=True)
    reports = [report or UsageReport(100, tokens_likely(TEXT)) for _, report in told]
    assert whole["usage"]["input_tokens"] == sum(report.input_tokens for report in reports)
    assert whole["usage"]["output_tokens"] == sum(report.output_tokens for report in reports)
    assert whole["usage"]["estimated"] is any(report is None for _, report in told)
    cost = sum((PRICES[model].cost_of(r) for (model, _), r in zip(told, reports, strict=True)), Decimal(0))
    assert whole["cost"] == cost_as_told(cost)


def test_a_step_whose_model_has_no_price_leaves_the_whole_cost_unknown() -> None:
    spending = begun()
    spending.settle("")
    spending.begin("unheard of")
    assert "cost" not in spending.as_told("", proved=True)


def test_a_step_that_another_version_began_keeps_no_guess() -> None:
    spending = Spending(PRICES)
    spending.begun("m", {})
    assert spending.as_told("", proved=False)["usage"]["input_tokens"] == 0


# --- budgets ----------------------------------------------------------------------------------------------------------


def said(spending: Spending, text: str, pieces: int) -> int:
    """How many pieces came before the budget was spent; all of them, if it never was."""
    for number in range(pieces):
        spending.add(hundredths_of(text))
        if spending.overspent():
            return number + 1
    return pieces


def test_without_a_budget_nothing_is_too_much() -> None:
    spending = begun(guess=10**9)
    assert said(spending, "word ", 1_000) == 1_000


def test_a_budget_of_tokens_counts_input_output_and_earlier_steps() -> None:
    budget = Budget(tokens=1_000)
    alone = said(begun(budget=budget), "word ", 10_000)
    assert 850 < tokens_likely("word " * alone) < 950
    spending = begun(budget=budget)
    spending.report(UsageReport(100, 500))
    spending.settle("")
    assert not spending.overspent()
    spending.begin("m")
    later = said(spending, "word ", 10_000)
    assert 250 < tokens_likely("word " * later) < 350


def test_a_budget_of_money_goes_by_the_price_of_the_model_that_answers() -> None:
    budget = Budget(usd=Decimal("0.01"))
    dear, cheap = said(begun(budget=budget), "word ", 10**5), said(begun(budget=budget, model="cheap"), "word ", 10**5)
    assert 20 < cheap / dear < 30
    assert said(begun(budget=budget, model="unheard of"), "word ", 5_000) == 5_000


def test_what_the_service_reports_in_the_middle_counts_at_once() -> None:
    spending = begun(budget=Budget(tokens=1_000))
    assert not spending.overspent()
    spending.report(UsageReport(100, 900))
    assert spending.overspent()


def test_a_turn_that_spent_its_budget_in_earlier_steps_may_not_ask_again() -> None:
    spending = begun(budget=Budget(tokens=150, usd=Decimal(1)))
    spending.report(UsageReport(100, 100))
    spending.settle("")
    assert spending.overspent()
