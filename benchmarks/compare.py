"""This run beside the committed one: what became slower by more than the noise of either."""

from typing import NamedTuple

from benchmarks.contest import US
from benchmarks.results import Result, Row

LEAST = 0.05  # a change below this share is never told: five runs do not show it
LONE, FEW = 0.25, 3  # the same where there are fewer than three runs, which say nothing about their noise
# Absolute rates and times vary with the clock of the moment. Ratios were taken pair by pair; CPU time varies less.
EVERYWHERE = {"x"}
SAME_MACHINE = {"us", "%", "MiB", "B"}


class Change(NamedTuple):
    """A figure that moved.

    Attributes:
        scenario: where.
        row: as it is now.
        before: the median of the committed result.
        worse: by what share it became worse; negative: better.
    """

    scenario: str
    row: Row
    before: float
    worse: float


def compare(before: Result, now: Result) -> list[Change]:
    """What differs by more than the noise, the worst first. What others cost by themselves is not our news.

    Args:
        before: the committed result.
        now: of the same scenario.
    """
    units = EVERYWHERE | (SAME_MACHINE if before.machine == now.machine else set())
    others = now.contestants.keys() - {US}
    known = {row.key: row for row in before.rows if row.unit in units and row.who not in others}
    changes = [
        Change(now.scenario, row, known[row.key].median, worse)
        for row in now.rows
        if row.key in known and (worse := _worse(known[row.key], row)) is not None
    ]
    return sorted(changes, key=lambda change: -change.worse)


def _worse(before: Row, now: Row) -> float | None:
    """By what share of before; None when the noise may explain it."""
    if not before.median:
        return None
    change = now.median / before.median - 1
    least = LONE if min(len(before.values), len(now.values)) < FEW else LEAST
    noise = max(least, before.noise, now.noise)
    if abs(change) <= noise:
        return None
    return -change if now.better == "higher" else change
