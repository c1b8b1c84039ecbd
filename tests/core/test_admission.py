"""The bucket gives what it holds and what has run in, and whoever waits as told gets it."""

from hypothesis import given
from hypothesis import strategies as st

from tests.core.generated import properly
from turnwire.core.admission import Bucket, Pace

rates = st.integers(1, 10_000_000)
bursts = st.integers(1, 20_000_000)
amounts = st.integers(0, 30_000_000)


def test_a_full_bucket_gives_its_burst_at_once_and_then_nothing() -> None:
    bucket = Bucket.full(rate_per_s=10, burst=3, now_ms=1_000)
    assert [bucket.take(1, 1_000) for _ in range(4)] == [0, 0, 0, 100]


def test_what_was_refused_cost_nothing() -> None:
    bucket = Bucket.full(rate_per_s=10, burst=3, now_ms=0)
    assert bucket.take(2, 0) == 0
    assert bucket.take(2, 0) == 100
    assert bucket.take(1, 0) == 0


def test_a_bucket_that_rests_holds_no_more_than_its_burst() -> None:
    bucket = Bucket.full(rate_per_s=10, burst=3, now_ms=0)
    assert bucket.take(3, 0) == 0
    assert bucket.take(3, 3_600_000) == 0
    assert bucket.take(1, 3_600_000) == 100


def test_more_than_the_burst_is_taken_from_a_full_bucket_and_paid_for_afterwards() -> None:
    bucket = Bucket.full(rate_per_s=10, burst=3, now_ms=0)
    assert bucket.take(5, 0) == 0
    assert bucket.take(1, 0) == 300


@properly
@given(rates, bursts, st.lists(st.tuples(amounts, st.integers(0, 5_000)), max_size=20))
def test_whoever_waits_exactly_as_told_is_served_and_not_a_millisecond_sooner(
    rate: int, burst: int, asks: list[tuple[int, int]]
) -> None:
    bucket, now_ms = Bucket.full(rate, burst, 0), 0
    for amount, pause_ms in asks:
        now_ms += pause_ms
        wait_ms = bucket.take(amount, now_ms)
        if wait_ms:
            assert bucket.take(amount, now_ms + wait_ms - 1) == 1
            now_ms += wait_ms
            assert bucket.take(amount, now_ms) == 0


@properly
@given(rates, bursts, st.lists(st.tuples(amounts, st.integers(0, 5_000)), max_size=30))
def test_in_any_time_no_more_is_given_than_the_burst_and_what_ran_in(
    rate: int, burst: int, asks: list[tuple[int, int]]
) -> None:
    bucket, now_ms = Bucket.full(rate, burst, 0), 0
    given_before_last, last = 0, 0
    for amount, pause_ms in asks:
        now_ms += pause_ms
        if bucket.take(amount, now_ms) == 0:
            given_before_last, last = given_before_last + last, amount
            # The last one may be larger than the burst: then it was owed, and the bucket was full.
            assert (given_before_last + min(last, burst)) * 1_000 <= burst * 1_000 + now_ms * rate


def test_a_pace_gives_each_its_own_time_and_keeps_none_for_whoever_would_wait_too_long() -> None:
    pace = Pace(3)
    assert [pace.wait_ms(1_000, 700) for _ in range(4)] == [0, 334, 667, 1_000]
    assert pace.wait_ms(1_000, 700) == 1_000  # the one before took nothing
    assert pace.wait_ms(1_900, 700) == 100
    assert pace.wait_ms(9_000, 700) == 0
