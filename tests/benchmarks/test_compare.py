"""What became slower is named when the noise cannot explain it."""

import pytest

from benchmarks.compare import compare
from benchmarks.results import Result, Row

HERE = {"cpu": "this one"}


def result(values, unit="us", better="lower", machine=HERE, who="streamq"):
    rows = [Row(who, "cost", unit, values, better)]
    return Result("drain", "c", "usual", machine, {}, {"streamq": {}, "bare": {}}, {}, rows)


def moved(before, now, **more):
    return [round(change.worse, 2) for change in compare(result(before, **more), result(now, **more))]


def test_a_change_beyond_the_spread_is_named():
    assert moved([10, 10, 10], [12, 12, 12]) == [0.2]


@pytest.mark.parametrize(("before", "now"), [([8, 10, 13], [12, 12, 12]), ([10, 10, 10], [9, 12, 15])])
def test_a_change_within_the_spread_of_either_is_not(before, now):
    assert moved(before, now) == []


def test_a_few_percent_are_never_named():
    assert moved([10.0] * 3, [10.4] * 3) == []


def test_a_rate_that_falls_became_worse():
    assert moved([1.0] * 3, [0.8] * 3, unit="x", better="higher") == [0.2]


def test_what_became_better_is_negative():
    assert moved([10] * 3, [8] * 3) == [-0.2]


def test_one_run_has_to_differ_by_more():
    assert moved([10], [12]) == []
    assert moved([10], [13]) == [0.3]


@pytest.mark.parametrize("unit", ["/s", "ms", "s"])
def test_absolute_times_and_rates_are_not_compared(unit):
    assert moved([10], [100], unit=unit) == []


@pytest.mark.parametrize(("who", "changes"), [("bare", 0), ("streamq / bare", 1), ("10 queues", 1)])
def test_what_others_cost_is_not_told(who, changes):
    assert len(moved([10], [20], who=who)) == changes


def test_on_another_machine_ratios_alone_are_compared():
    for unit, found in (("us", 0), ("x", 1)):
        assert len(compare(result([10], unit, machine={"cpu": "another"}), result([20], unit))) == found


def test_a_row_that_is_new_has_nothing_to_be_compared_with():
    before = Result("drain", "c", "usual", HERE, {}, {}, {}, [])
    assert compare(before, result([10])) == []
