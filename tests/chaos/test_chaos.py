"""The whole harness for seconds: streamq passes, the naive worker does not."""

import random
import shutil

import pytest

from tests.chaos.history import parse
from tests.chaos.run import Options, run
from tests.chaos.schedule import FAULTS, schedule
from tests.chaos.story import KINDS, Author

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.slow]


@pytest.mark.timeout(200)
def test_nothing_is_lost_whatever_happens():
    result, folder = run(Options(minutes=0.25, seed=str(random.randrange(10**6)), gap=1.0))
    assert result.clean  # what is off was printed, with the seed
    assert result.findings.counts["finished"] > 0
    assert result.ledger.count > 0
    assert sum(result.faults.values()) > 0
    shutil.rmtree(folder)


@pytest.mark.timeout(100)
def test_a_naive_worker_does_not_pass():
    result, folder = run(Options(minutes=0.3, seed="naive", gap=1.0, naive=True, drain=8))
    assert not result.clean
    found = {offence for offence, keys in result.findings.offences.items() if keys}
    assert found & {"lost", "stuck"}
    assert result.findings.duplicates.total() > 0
    shutil.rmtree(folder)


# --- what a seed repeats


def test_a_seed_repeats_the_faults():
    first, second, other = (schedule(seed, 2.0) for seed in ("1", "1", "2"))
    actions = [next(first) for _ in range(500)]
    assert actions == [next(second) for _ in range(500)]
    assert actions != [next(other) for _ in range(500)]
    assert {action.kind for action in actions} == FAULTS.keys()


def test_a_seed_repeats_the_messages():
    first, second = Author("p1", "1"), Author("p1", "1")
    plans = [first.next() for _ in range(20_000)]
    again = [second.next() for _ in range(20_000)]
    assert [plan[:3] for plan in plans] == [plan[:3] for plan in again]
    assert {plan.kind for plan in plans} == KINDS.keys()
    assert len({plan.key for plan in plans}) == len(plans)


def test_a_line_comes_back_as_it_was_written():
    event = parse("1.500000 S p1-2 alpha quick 10 9 -")
    assert event == (1.5, "S", "p1-2", "alpha", "quick", 10, 9, "-")
