"""Whether something grows: a line through the floor of what was measured, with the doubt that remains.

A leak raises the floor; a backlog, or a fault, raises only peaks. So of every few seconds the least value counts. Each
process is a series of its own: they share one slope, and each has its own level.
"""

import itertools
import math
from typing import NamedTuple

WINDOW = 5.0  # seconds of which the least value counts
LEAST_POINTS = 4  # of a series; a shorter one says nothing of a trend


class Slope(NamedTuple):
    """What was found.

    Attributes:
        per_second: of the common line; None when there is too little to say.
        doubt: half of its 95 % interval.
        span: seconds over which was measured.
        points: how many.
    """

    per_second: float | None
    doubt: float
    span: float
    points: int

    @property
    def surely(self):
        """What it grew by at least, over the whole span, with 97.5 % confidence."""
        return 0.0 if self.per_second is None else max(0.0, self.per_second - self.doubt) * self.span

    @property
    def at_most(self):
        """What it may have grown by."""
        return math.inf if self.per_second is None else max(0.0, self.per_second + self.doubt) * self.span


def floor(samples):
    """The least value of each window. ``samples``: (seconds, value), in order."""
    least = {}
    for at, value in samples:
        window = int(at // WINDOW)
        if window not in least or value < least[window][1]:
            least[window] = (at, value)
    return list(least.values())


def slope(series):
    """The common slope of several series of (seconds, value)."""
    floors = [points for points in map(floor, series) if len(points) >= LEAST_POINTS]
    centred = [_centred(points) for points in floors]
    xx = sum(x * x for points in centred for x, _ in points)
    count = sum(map(len, centred))
    ends = [at for points in floors for at, _ in points]
    span = max(ends) - min(ends) if ends else 0.0
    freedom = count - len(centred) - 1
    if xx == 0 or freedom < 1:
        return Slope(None, math.inf, span, count)
    per_second = sum(x * y for points in centred for x, y in points) / xx
    left = [[y - per_second * x for x, y in points] for points in centred]
    squares = sum(r * r for residuals in left for r in residuals)
    doubt = _t(freedom) * math.sqrt(squares / freedom / xx) * _memory(left, squares)
    return Slope(per_second, doubt, span, count)


def _centred(points):
    at, value = (sum(column) / len(points) for column in zip(*points, strict=True))
    return [(x - at, y - value) for x, y in points]


def _memory(left, squares):
    """Neighbours resemble each other, so many points say less than they would alone: widen by their correlation."""
    if squares == 0:
        return 1.0
    together = sum(a * b for residuals in left for a, b in itertools.pairwise(residuals))
    correlation = min(0.95, max(0.0, together / squares))
    return math.sqrt((1 + correlation) / (1 - correlation))


def _t(freedom):
    """The 97.5 % quantile of Student's distribution, to about 1 %; much wider where there is next to nothing."""
    return 12.7 if freedom == 1 else 1.96 + 2.4 / freedom + 2.8 / freedom**2 + 3 / freedom**3
