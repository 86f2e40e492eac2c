"""Waits: doubling, the cap, the jitter around it, and no overflow however often something failed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamq.core.backoff import reconnect_delay, retry_delay

ALMOST_ONE = 1 - 2**-53  # the largest number that random() returns


def middle():
    return 0.5


@pytest.mark.parametrize(
    ("retry_count", "seconds"),
    [(0, 1), (1, 2), (2, 4), (3, 8), (9, 512), (10, 600), (11, 600), (60, 600), (61, 600), (1024, 600), (10**16, 600)],
)
def test_exponential_waits_double_up_to_the_cap(retry_count, seconds):
    """The first retry waits the base, each further one twice as long, and none longer than the cap."""
    found = retry_delay(retry_count, base=1.0, exponential=True, cap=600.0, rng=middle)
    assert found == pytest.approx(seconds)


@pytest.mark.parametrize("retry_count", [0, 1, 5, 10**16])
@pytest.mark.parametrize("base", [0.0, 60.0, 3000.0])
def test_fixed_waits_stay(retry_count, base):
    """Without backoff every wait is the base, and the cap is not meant for it."""
    assert retry_delay(retry_count, base=base, exponential=False, cap=600.0, rng=middle) == pytest.approx(base)


@pytest.mark.parametrize("exponential", [False, True])
def test_jitter_is_a_fifth_to_both_sides(exponential):
    """The wait spreads from 80 % to 120 %, in both modes."""
    waits = [retry_delay(0, base=10.0, exponential=exponential, cap=600.0, rng=lambda r=r: r) for r in (0, ALMOST_ONE)]
    assert waits == [pytest.approx(8.0), pytest.approx(12.0)]


def test_jitter_comes_after_the_cap():
    """Messages that reached the cap do not come back together."""
    assert retry_delay(50, base=1.0, exponential=True, cap=600.0, rng=lambda: ALMOST_ONE) == pytest.approx(720.0)
    assert retry_delay(50, base=1.0, exponential=True, cap=600.0, rng=lambda: 0.0) == pytest.approx(480.0)


def test_randomness_of_its_own():
    """Without a source of randomness waits differ."""
    assert len({retry_delay(0, base=1.0, exponential=False, cap=1.0) for _ in range(20)}) > 1
    assert len({reconnect_delay(5) for _ in range(20)}) > 1


@given(st.integers(0, 2**63), st.floats(1e-3, 3e8), st.booleans(), st.floats(1e-3, 3e8), st.floats(0, ALMOST_ONE))
def test_waits_are_always_near_what_they_should_be(retry_count, base, exponential, cap, r):
    """Whatever the numbers, the wait is finite, not negative and within the jitter of the right one."""
    found = retry_delay(retry_count, base=base, exponential=exponential, cap=cap, rng=lambda: r)
    right = min(cap, base * 2 ** min(retry_count, 1000)) if exponential else base
    assert right * 0.8 * 0.999 <= found <= right * 1.2 * 1.001


@pytest.mark.parametrize(
    ("failures", "longest"),
    [(1, 0.2), (2, 0.4), (3, 0.8), (4, 1.6), (5, 3.2), (6, 6.4), (7, 10), (8, 10), (11, 10), (5000, 10), (10**9, 10)],
)
def test_reconnecting_is_spread_from_a_tenth_of_a_second(failures, longest):
    """Full jitter: from 0.1 s to a ceiling that doubles with each failure, up to 10 s."""
    assert reconnect_delay(failures, rng=lambda: 0.0) == pytest.approx(0.1)
    assert reconnect_delay(failures, rng=lambda: 1.0) == pytest.approx(longest)
