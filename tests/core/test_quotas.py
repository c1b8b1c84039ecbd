"""Plans, what is left of them, and what is said to whoever has used them up."""

from decimal import Decimal
from typing import Any, get_args

import pytest

from turnwire.core.quotas import (
    COUNTED,
    NANO,
    TOKENS_MAX,
    UNLIMITED,
    Limit,
    Limited,
    Plan,
    Plans,
    SubjectKind,
    least_left,
    nano_of,
    plan_of_claims,
    usd_text,
)
from turnwire_protocol.values import ErrorBody, Left


def test_a_plan_tells_its_limits_in_the_order_of_the_scripts() -> None:
    plan = Plan(1, 2, 3, 4, 5, 6, 7)
    assert [getattr(plan, name) for name in COUNTED] == list(plan.limits) == [1, 2, 4, 5, 6, 7]
    assert plan.counts_turns and plan.counts_money
    assert not Plan(connections=3).counts_turns and not Plan(tokens_per_day=1).counts_money
    assert Plan(usd_per_month=1).counts_money and Plan(usd_per_day=1).counts_money


def test_a_token_may_carry_its_plan() -> None:
    claims: dict[str, Any] = {
        "turns_running": 2,
        "usd_per_day": 0.25,
        "usd_per_month": 3,
        "upgrade_url": "https://x.example",
    }
    plan = Plan(turns_running=2, usd_per_day=NANO // 4, usd_per_month=3 * NANO, upgrade_url="https://x.example")
    assert plan_of_claims(claims) == plan
    assert plan_of_claims({}) == UNLIMITED
    assert plan_of_claims({"tokens_per_day": TOKENS_MAX}).tokens_per_day == TOKENS_MAX


@pytest.mark.parametrize(
    "claims",
    [
        {"turns": 1},
        {"turns_running": -1},
        {"turns_running": True},
        {"turns_running": 1.0},
        {"turns_running": "1"},
        {"turns_running": None},
        {"tokens_per_day": TOKENS_MAX + 1},
        {"usd_per_day": "1"},
        {"usd_per_day": True},
        {"usd_per_day": -0.1},
        {"usd_per_day": 10**7},
        {"usd_per_day": float("nan")},
        {"upgrade_url": 1},
        {"upgrade_url": "http://x.example"},
        {"upgrade_url": "https://" + "x" * 3_000},
    ],
)
def test_claims_that_are_no_plan_are_refused(claims: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        plan_of_claims(claims)


def test_a_plan_of_an_unknown_name_gives_no_more_than_no_name() -> None:
    free, paid, own = Plan(turns_running=1), Plan(turns_running=9), Plan(turns_running=5)
    plans = Plans({"free": free, "paid": paid}, {"user": free})
    assert plans.of("user", None) == plans.of("user", "gold") == free
    assert plans.of("user", "paid") == paid
    assert plans.of("user", own) == own
    assert plans.of("org", "gold") == UNLIMITED


@pytest.mark.parametrize("kind", get_args(SubjectKind))
@pytest.mark.parametrize("limit", get_args(Limit))
def test_a_refusal_is_a_sentence_and_the_code_fits_the_limit(kind: SubjectKind, limit: Limit) -> None:
    limited = Limited(kind, limit, 1_234)
    long = limit.endswith(("_day", "_month"))
    assert limited.code == ("quota_exceeded" if long else "rate_limited")
    ErrorBody(code=limited.code, message=limited.message, retry="none")
    assert limited.message.endswith(".") and limited.message[0].isupper()
    assert limited.told_after_ms == 1_234
    assert Limited(kind, limit, 0).told_after_ms == 1_000


def test_what_is_left_is_the_least_of_all_plans() -> None:
    own = [5, None, 100, None, 2_500_000_000, None]
    of_org = [9, 1, 50, None, None, None]
    assert least_left([own, of_org]) == Left(turns_per_minute=5, turns_running=1, tokens_per_day=50, usd_per_day="2.5")
    assert least_left([]) is None
    assert least_left([[None] * 6]) is None


def test_money_is_exact_and_rounded_up() -> None:
    assert nano_of(Decimal("0.0000000001")) == 1
    assert nano_of(Decimal("1.5")) == 1_500_000_000
    assert [usd_text(amount) for amount in (0, 1, NANO, 1_500_000_000)] == ["0", "0.000000001", "1", "1.5"]
