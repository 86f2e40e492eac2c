"""The law: left minus right is what left outside the protocol."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamq.core.config import LEVELS
from streamq.core.ledger import LevelMoment, Moment


def level(length=0, added=0, pending=0):
    return LevelMoment(length, added, pending, oldest_ready_ms=None, oldest_pending_ms=None, consumers=0)


def moment(*, delayed=0, bodies=None, counters=None, **levels):
    every = {name: levels.get(name, level()) for name in LEVELS}
    return Moment(0, delayed, delayed if bodies is None else bodies, counters or {}, every)


def test_an_empty_queue_balances():
    """Nothing came, nothing went, nothing lies there."""
    assert (moment().imbalance, moment().foreign, moment().deleted_streams, moment().length) == (0, 0, [], 0)


@pytest.mark.parametrize("name", ["accepted", "replayed"])
def test_what_came_in_must_lie_there(name):
    """A message that was accepted or replayed and is nowhere is missing."""
    assert moment(counters={name: 3}).imbalance == 3
    assert moment(counters={name: 3, "added:low": 1}, delayed=2, low=level(1, 1)).imbalance == 0


@pytest.mark.parametrize("name", ["done", "dropped", "dead", "cancelled", "evicted", "purged", "written_off"])
def test_what_went_out_need_not_lie_there(name):
    """All seven ways out are terms of the law."""
    assert moment(counters={"accepted": 3, name: 3}).imbalance == 0
    assert moment(counters={"accepted": 3, name: 1}).imbalance == 2
    assert moment(counters={"accepted": 3, name: 4}).imbalance == -1


@pytest.mark.parametrize(
    "name",
    ["vanished", "orphan", "fenced", "late_ack", "suspect", "retried", "released", "snoozed", "held", "promoted"],
)
def test_diagnostics_are_no_terms(name):
    """What only happened to a message neither adds nor removes one."""
    assert moment(counters={name: 5}).imbalance == 0


def test_what_others_added_counts_as_come_in():
    """Entries beyond our own XADDs, level by level, are foreign."""
    found = moment(
        counters={"accepted": 3, "added:high": 2, "added:normal": 1},
        high=level(3, added=3), normal=level(5, added=5), low=level(1, added=1),
    )  # fmt: skip
    assert found.foreign == 1 + 4 + 1
    assert (found.length, found.imbalance) == (9, 0)


def test_a_deleted_stream_hides_no_foreign_entries_of_another():
    """Redis forgot what it added there: that level gives 0, never less, and is named."""
    found = moment(counters={"added:critical": 9, "added:low": 1}, critical=level(added=2), low=level(4, added=5))
    assert found.foreign == 4
    assert found.deleted_streams == ["critical"]
    assert moment(counters={"added:low": 5}, low=level(added=5)).deleted_streams == []


def test_sums_over_the_levels():
    """Length and what is in flight are those of all four streams."""
    found = moment(**{name: level(10**n, 10**n, 2 * 10**n) for n, name in enumerate(LEVELS)})
    assert (found.length, found.pending) == (1111, 2222)


@pytest.mark.parametrize(("delayed", "bodies", "difference"), [(2, 2, 0), (2, 3, 1), (3, 2, -1)])
def test_every_due_time_has_its_entry(delayed, bodies, difference):
    """As many packed entries as members of the delayed set."""
    assert moment(delayed=delayed, bodies=bodies).body_imbalance == difference


class Model:
    """A queue as protocol.md 3.3 describes it: where messages lie, and which counter each change touches."""

    def __init__(self):
        self.streams, self.delayed = dict.fromkeys(LEVELS, 0), 0
        self.added, self.counters = dict.fromkeys(LEVELS, 0), {}
        self.lost = 0

    def count(self, name, by=1):
        self.counters[name] = self.counters.get(name, 0) + by

    def xadd(self, level, *, ours=True):
        self.streams[level] += 1
        self.added[level] += 1
        if ours:
            self.count(f"added:{level}")

    def change(self, name, level):
        here = self.streams[level] > 0
        match name:
            case "publish" | "replay":
                self.count("accepted" if name == "publish" else "replayed")
                self.xadd(level)
            case "delayed":
                self.count("accepted")
                self.delayed += 1
            case "foreign":
                self.xadd(level, ours=False)
            case "promote" | "cancel" if self.delayed:
                self.delayed -= 1
                self.xadd(level) if name == "promote" else self.count("cancelled")
            case "retried" | "snoozed" | "held" | "suspect" if here:
                self.streams[level] -= 1
                self.delayed += 1
                self.count(name)
            case "released" if here:
                self.streams[level] -= 1
                self.xadd(level)
                self.count(name)
            case "done" | "dropped" | "dead" | "evicted" | "purged" if here:
                self.streams[level] -= 1
                self.count(name)
            case "trim" if here:  # outside the protocol
                self.streams[level] -= 1
                self.lost += 1
            case "write off":
                self.count("written_off", self.lost)
                self.lost = 0

    def moment(self):
        levels = {name: level(self.streams[name], self.added[name]) for name in LEVELS}
        return Moment(0, self.delayed, self.delayed, self.counters, levels)


CHANGES = [
    "publish", "replay", "delayed", "foreign", "promote", "cancel", "retried", "snoozed", "held", "suspect", "released",
    "done", "dropped", "dead", "evicted", "purged", "trim", "write off",
]  # fmt: skip


@given(st.lists(st.sampled_from(list(itertools.product(CHANGES, LEVELS))), max_size=60))
def test_the_law_holds_after_every_change(changes):
    """Whatever happens, the imbalance is exactly what was trimmed behind the protocol's back."""
    model = Model()
    for name, where in changes:
        model.change(name, where)
        found = model.moment()
        assert (found.imbalance, found.body_imbalance, found.deleted_streams) == (model.lost, 0, [])
