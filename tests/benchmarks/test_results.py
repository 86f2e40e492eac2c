"""Medians, noise, verdicts, files: what is made of single runs."""

import pytest

from benchmarks.results import Result, Row, fastest, figures, load, number, ratio, save


def result(*rows, peers=False, **more):
    contestants = {"streamq": {"baseline": True}, **({"arq": {"baseline": False}} if peers else {})}
    told = {"command": "c", "size": "usual", "machine": {"cpu": "a"}, "versions": {}, "counts": {}, **more}
    return Result(scenario="drain", contestants=contestants, rows=list(rows), **told)


def row(values, better="lower", goal=None, stretch=None):
    return Row("streamq", "cost", "us", values, better, goal, stretch)


def test_one_run_off_does_not_move_the_median():
    assert row([1, 2, 3, 4, 100]).median == 3


def test_noise_is_how_far_a_run_was_off():
    assert row([8, 10, 11]).noise == pytest.approx(0.2)


def test_one_run_has_no_noise():
    assert row([8]).noise == 0


@pytest.mark.parametrize(
    ("median", "better", "verdict"),
    [
        (16, "lower", "not met"), (15, "lower", "met"), (10, "lower", "stretch"),
        (9, "higher", "not met"), (15, "higher", "stretch"),
    ],
)  # fmt: skip
def test_a_bound_is_met_by_who_reaches_it(median, better, verdict):
    goal, stretch = (15, 10) if better == "lower" else (10, 15)
    assert row([median], better, goal, stretch).verdict == verdict


def test_without_a_goal_there_is_no_verdict():
    assert row([1]).verdict == ""


def test_without_a_stretch_a_goal_is_met_and_no_more():
    assert row([1], goal=2).verdict == "met"


def test_ratios_are_taken_pair_by_pair():
    """Both ran at half the clock in the second round: that is no difference between them."""
    found = ratio({"streamq": [10, 5], "bare": [20, 10]}, "bare", "rate", float)
    assert (found.values, found.who) == ([0.5, 0.5], "streamq / bare")


def test_the_goal_is_for_streamq_alone():
    rows = figures({"streamq": [1.0], "bare": [2.0]}, "cost", "us", float, goal=3)
    assert [(row.who, row.goal) for row in rows] == [("streamq", 3), ("bare", None)]


def test_the_fastest_is_so_by_its_median():
    runs = {"a": [1, 1, 100], "b": [2, 2, 2], "c": [9, 9, 9]}
    assert fastest(runs, ["a", "b", "gone"], float) == "b"
    assert fastest(runs, ["gone"], float) is None


def test_a_result_survives_its_file(tmp_path):
    kept = result(row([1.5, 2.5], goal=2))
    assert load(save(kept, tmp_path)) == kept


def test_a_run_with_peers_has_a_file_of_its_own(tmp_path):
    assert result().path(tmp_path).name == "drain.json"
    assert result(peers=True).path(tmp_path).name == "drain-peers.json"


@pytest.mark.parametrize(
    ("value", "text"), [(123456.7, "123,457"), (123.4, "123"), (12.34, "12.3"), (1.234, "1.23"), (0, "0.00")]
)
def test_figures_have_the_digits_that_mean_something(value, text):
    assert number(value) == text
