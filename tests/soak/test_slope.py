"""What grows is found, what only moves is not."""

import math
from random import Random

import pytest

from tests.soak.slope import LEAST_POINTS, WINDOW, floor, slope


def walk(value, *, seconds=300, start=0.0):
    """A value for each second."""
    return [(start + at, value(at)) for at in range(seconds)]


def noise(seed, size=1.0):
    random = Random(seed)
    return lambda _: random.uniform(0, size)


def test_the_floor_is_the_least_of_each_window():
    assert floor([(0, 5), (1, 3), (4.9, 9), (5, 7), (6, 8)]) == [(1, 3), (5, 7)]
    assert WINDOW == 5


def test_a_steady_line_is_found_exactly():
    found = slope([walk(lambda at: 10 + 0.5 * at)])
    assert found.per_second == pytest.approx(0.5)
    assert found.surely == pytest.approx(0.5 * found.span, rel=0.01)


def test_each_series_has_its_own_level():
    """Processes that are started later are no growth."""
    series = [walk(lambda _, level=level: level, seconds=60, start=60 * level) for level in range(5)]
    assert slope(series).per_second == pytest.approx(0)


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_no_growth(seed):
    series = [walk(noise(f"{seed}/{number}")) for number in range(4)]
    found = slope(series)
    assert found.surely < 0.1
    assert found.at_most < 1


@pytest.mark.parametrize("seed", range(20))
def test_growth_below_noise_is_found(seed):
    jitter = noise(seed, 5.0)
    found = slope([walk(lambda at: jitter(at) + 0.05 * at)])
    assert found.surely > 10
    assert abs(found.per_second - 0.05) < 2 * found.doubt  # 95 % of such intervals hold the truth


def test_peaks_of_a_backlog_are_no_growth():
    """It is larger towards the end, but it always comes back to where it was."""
    found = slope([walk(lambda at: 20 + (at if at % 4 else 0))])
    assert found.surely < 1


def test_too_little_says_nothing():
    short = walk(lambda at: at, seconds=int(WINDOW * (LEAST_POINTS - 1)))
    assert slope([short]).per_second is None
    assert slope([]).surely == 0
    assert slope([]).at_most == math.inf
