"""A service in trouble gets less to do: repeats stay a small part of all requests, and one probe ends a rest."""

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.generated import properly
from turnwire.core.errors import RETRYABLE, FailureKind
from turnwire.core.upstream_health import PROBE_LOOK_MS, REST_MS, REST_MS_MAX, UpstreamHealth

REFUSALS = ("upstream_rejected", "upstream_unauthorised")
NO_VERDICTS = sorted(set(get_args(FailureKind)) - RETRYABLE - set(REFUSALS))


def failing(times: int, health: UpstreamHealth | None = None, now_ms: int = 0, **told: Any) -> UpstreamHealth:
    health = health or UpstreamHealth()
    for _ in range(times):
        health.failed(health.sent(), "upstream_failed", told.get("retry_after_ms"), now_ms)
    return health


@properly
@given(st.integers(0, 400), st.lists(st.sampled_from(["step", "repeat"]), max_size=400))
def test_repeats_are_bounded_by_the_steps_whatever_happens(percent: int, happens: list[str]) -> None:
    health = UpstreamHealth(percent)
    steps = repeats = 0
    for what in happens:
        if what == "step":
            health.begin_step()
            steps += 1
        elif health.may_repeat:
            health.repeat()
            repeats += 1
    assert repeats <= percent + steps * percent / 100


def test_a_budget_that_is_spent_is_earned_again_by_steps_and_not_hoarded() -> None:
    health = UpstreamHealth(budget_percent=10)
    for _ in range(1_000):
        health.begin_step()
    for _ in range(10):
        assert health.may_repeat
        health.repeat()
    assert not health.may_repeat
    health.repeat()
    for _ in range(9):
        health.begin_step()
    assert not health.may_repeat
    health.begin_step()
    assert health.may_repeat


def test_failures_in_a_row_bring_a_rest_and_an_answer_between_them_does_not() -> None:
    health = failing(4)
    assert health.rest_ms(0) == 0
    health.answered()
    failing(4, health)
    assert health.rest_ms(0) == 0
    failing(1, health)
    assert (health.rest_ms(0), health.rest_ms(REST_MS - 1), health.rest_ms(REST_MS)) == (REST_MS, 1, 0)
    assert health.trouble == "upstream_failed"


def test_after_a_rest_one_probe_goes_out_and_what_it_finds_decides() -> None:
    health = failing(5)
    probe = health.sent()
    assert health.rest_ms(REST_MS) == PROBE_LOOK_MS
    health.failed(probe, "timeout_connect", None, REST_MS)
    assert (health.rest_ms(REST_MS), health.trouble) == (2 * REST_MS, "timeout_connect")
    health.sent()
    health.answered()
    assert health.rest_ms(0) == 0
    failing(4, health)
    assert health.rest_ms(0) == 0
    assert failing(1, health).rest_ms(0) == REST_MS


def test_a_probe_that_was_given_up_makes_room_for_the_next_one_and_another_request_does_not() -> None:
    health = UpstreamHealth()
    early = health.sent()
    failing(5, health)
    probe = health.sent()
    health.left(early)
    assert health.rest_ms(REST_MS) == PROBE_LOOK_MS
    health.left(probe)
    assert health.rest_ms(REST_MS) == 0


def test_what_fails_during_a_rest_was_sent_before_it_and_does_not_prolong_it() -> None:
    health = UpstreamHealth()
    early = [health.sent() for _ in range(20)]
    failing(5, health)
    for number in early:
        health.failed(number, "upstream_busy", 20_000, 1_000)
    assert health.rest_ms(0) == REST_MS


def test_rests_grow_to_their_maximum_and_a_service_may_ask_for_a_longer_one() -> None:
    assert failing(5, retry_after_ms=7_000).rest_ms(0) == 7_000
    assert failing(5, retry_after_ms=10**9).rest_ms(0) == REST_MS_MAX
    health = failing(5)
    rests = [health.rest_ms(0)]
    for _ in range(20):
        failing(1, health)
        rests.append(health.rest_ms(0))
    assert rests[:5] == [2_000, 4_000, 8_000, 16_000, REST_MS_MAX]
    assert set(rests[5:]) == {REST_MS_MAX}


def test_without_a_maximum_of_failures_there_is_no_rest() -> None:
    assert failing(1_000, UpstreamHealth(failures_max=0)).rest_ms(0) == 0


@pytest.mark.parametrize("kind", REFUSALS)
def test_whoever_refuses_a_request_is_there(kind: FailureKind) -> None:
    health = failing(5)
    health.failed(health.sent(), kind, None, 0)
    assert health.rest_ms(0) == 0
    failing(4, health)
    assert health.rest_ms(0) == 0


@pytest.mark.parametrize("kind", NO_VERDICTS)
def test_what_is_our_own_fault_says_nothing_of_the_service(kind: FailureKind) -> None:
    health = failing(4)
    health.failed(health.sent(), kind, None, 0)
    assert health.rest_ms(0) == 0
    failing(1, health)
    assert health.rest_ms(0) == REST_MS
    health.failed(health.sent(), kind, None, 0)
    assert health.rest_ms(0) == PROBE_LOOK_MS
