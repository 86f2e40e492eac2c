"""The checker finds what is planted, and nothing where nothing is."""

import pytest

from tests.chaos.checker import OFFENCES, Case, Fault, check
from tests.chaos.history import Event
from tests.chaos.recovery import measure, quantile
from tests.chaos.remains import Letter, Remains

WORKER, OTHER, CHILD, PRODUCER = 100, 200, 101, 900
SLOTS = {WORKER: 0, OTHER: 1}


def told(words, *, key="k", queue="alpha", kind="quick", pid=WORKER, at=0.0, note="-"):
    """Events of one message from a word like ``IASF``, a second apart."""
    return [
        Event(at + number, what, key, queue, kind, PRODUCER if what in "IAXU" else pid, 1, "0" if what == "I" else note)
        for number, what in enumerate(words)
    ]


def verdict(events, *, left=(), letters=(), faults=(), touches=1):
    histories = {}
    for event in events:
        histories.setdefault(event.key, []).append(event)
    remains = Remains(dict(left), [Letter(*letter, {}) for letter in letters])
    return check(Case(histories, remains, list(faults), SLOTS, 2, touches))


def offences(*args, **more):
    return {offence: keys for offence, keys in verdict(*args, **more).offences.items() if keys}


CLEAN = {
    "finished": ([*told("IASF")], {}),
    "finished before its publish returned": (told("ISFA"), {}),
    "failed, then finished": (told("IASESF"), {}),
    "lost with its worker, then finished": ([*told("IAS"), *told("SF", pid=OTHER, at=3)], {}),
    "refused, and never seen": (told("IX"), {}),
    "unknown, and never seen": (told("IU"), {}),
    "unknown, and finished": (told("IUSF"), {}),
    "unknown, resent and finished": (told("IUASF"), {}),
    "intended by a producer that was killed": (told("I"), {}),
    "dead as it was meant to be": (told("IASE", kind="doomed"), {"letters": [("k", "alpha", "max_retries")]}),
    "one of two fates": (told("IA", kind="fleeting"), {"letters": [("k", "alpha", "expired")]}),
    "the other of two fates": (told("IASF", kind="fleeting"), {}),
    "finished twice around a fault of its worker": (
        [*told("IASF"), *told("SF", pid=OTHER, at=4)],
        {"faults": [Fault("worker killed", 3.5, 3.5, frozenset({0}))]},
    ),
    "finished twice around a fault of the server": (
        [*told("IASF"), *told("SF", pid=OTHER, at=4)],
        {"faults": [Fault("server frozen", 1, 3, None)]},
    ),
    "finished twice because its handler stopped the worker": (
        [*told("IAS", kind="gil"), *told("F", kind="gil", at=7), *told("SF", kind="gil", pid=OTHER, at=9)],
        {},
    ),
}
PLANTED = {
    "accepted and gone": ("lost", told("IA"), {}),
    "started and gone": ("lost", told("IAS"), {}),
    "failed and gone": ("lost", told("IASE"), {}),
    "unknown, started and gone": ("lost", told("IUS"), {}),
    "meant to die, and it is nowhere": ("lost", told("IASE", kind="doomed"), {}),
    "meant to die, and it is only finished": ("lost", told("IASF", kind="doomed"), {}),
    "still there": ("stuck", told("IA"), {"left": {"k": ["queue:alpha 1-1"]}}),
    "finished and still there": ("stuck", told("IASF"), {"left": {"k": ["queue:alpha 1-1"]}}),
    "dead twice": ("doubled", told("IASE", kind="doomed"), {"letters": [("k", "alpha", "max_retries")] * 2}),
    "refused and run": ("ghost", told("IXSF"), {}),
    "refused and there": ("ghost", told("IX"), {"left": {"k": ["queue:alpha 1-1"]}}),
    "refused and dead": ("ghost", told("IX"), {"letters": [("k", "alpha", "poison")]}),
    "run, and nobody published it": ("alien", told("SF"), {}),
    "there, and nobody published it": ("alien", [], {"left": {"k": ["queue:alpha 1-1"]}}),
    "dead, and nobody published it": ("alien", [], {"letters": [("k", "alpha", "malformed")]}),
    "run by another queue": ("misrouted", [*told("IA"), *told("SF", queue="beta", at=2)], {}),
    "run by another handler": ("misrouted", [*told("IA"), *told("SF", kind="slow", at=2)], {}),
    "dead in another queue": ("misrouted", told("IASE", kind="doomed"), {"letters": [("k", "beta", "max_retries")]}),
    "an innocent for poison": ("innocent", told("IASF"), {"letters": [("k", "alpha", "poison")]}),
    "dead for another reason": ("innocent", told("IASE", kind="doomed"), {"letters": [("k", "alpha", "poison")]}),
    "started too early": ("early", [Event(0, "I", "k", "alpha", "later", 9, 1, "5"), *told("ASF", kind="later")], {}),
    "finished twice without a fault": ("unexplained", told("IASFSF"), {}),
    "finished twice long after a fault": (
        "unexplained",
        told("IASFSF", at=100),
        {"faults": [Fault("server frozen", 1, 3, None)]},
    ),
    "finished twice, and only then there was a fault": (
        "unexplained",
        told("IASFSF"),
        {"faults": [Fault("server frozen", 30, 31, None)]},
    ),
    "finished twice although its handler let go soon": (
        "unexplained",
        [*told("IASF", kind="gil"), *told("SF", kind="gil", pid=OTHER, at=4)],
        {},
    ),
    "finished twice around another worker's fault": (
        "unexplained",
        told("IASFSF"),
        {"faults": [Fault("worker killed", 3, 3, frozenset({1}))]},
    ),
}


@pytest.mark.parametrize("name", CLEAN)
def test_a_sound_history_passes(name):
    events, more = CLEAN[name]
    assert offences(events, **more) == {}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found(name):
    offence, events, more = PLANTED[name]
    assert offences(events, **more) == {offence: ["k"]}


def test_every_offence_is_planted_somewhere():
    assert {offence for offence, *_ in PLANTED.values()} | {"beyond the bound"} == OFFENCES.keys()


def test_a_fault_explains_no_more_than_it_can_touch():
    faults = [Fault("worker killed", 3.5, 3.5, frozenset({0}))]
    many = [[*told("IASF", key=key), *told("SF", key=key, pid=OTHER, at=4)] for key in ("a", "b")]
    assert offences([*many[0], *many[1]], faults=faults, touches=2) == {}
    assert offences([*many[0], *many[1]], faults=faults, touches=1) == {"beyond the bound": ["worker killed"]}


def test_a_fault_of_all_workers_may_cause_more():
    faults = [Fault("server frozen", 1, 2, None)]
    found = verdict(told("IASF"), faults=faults, touches=3)
    assert found.bounds == {"server frozen": 6}


def test_a_child_belongs_to_its_worker():
    first = [event._replace(pid=CHILD, parent=WORKER) for event in told("SF", kind="child", queue="beta", at=2)]
    events = [*told("IA", kind="child", queue="beta"), *first, *told("SF", kind="child", queue="beta", pid=OTHER, at=5)]
    found = verdict(events, faults=[Fault("worker killed", 4, 4, frozenset({0}))])
    assert (found.clean, found.duplicates) == (True, {"worker killed": 1})


def test_what_is_counted():
    events = [*told("IASF", key="a"), *told("IX", key="b"), *told("IU", key="c"), *told("IUSF", key="d")]
    found = verdict(events, letters=[])
    assert found.counts == {
        "published": 4, "accepted": 1, "refused": 1, "unknown": 2, "unknown, but in": 1, "finished": 2, "starts": 2,
        "again": 0,
    }  # fmt: skip


# --- recovery


def histories(*events):
    found = {}
    for event in sorted(event for several in events for event in several):
        found.setdefault(event.key, []).append(event)
    return found


def test_restart_is_from_the_death_to_the_next_start():
    events = histories(told("IAS"), told("SF", pid=OTHER, at=9))
    found = measure(events, [(WORKER, 4.0)], [])
    assert (found.first, found.calm, found.again) == ([5.0], [5.0], [])


def test_a_restart_that_an_outage_held_up_is_not_calm():
    events = histories(told("IAS"), told("SF", pid=OTHER, at=19), told("S", key="l", pid=OTHER, at=25))
    for began, ended, calm in ((5, 6, []), (1, 2, []), (20, 21, [15.0])):
        found = measure(events, [(WORKER, 4.0)], [Fault("server frozen", began, ended, None)])
        assert (found.first, found.calm) == ([15.0], calm)


def test_what_had_ended_when_its_worker_died_is_not_repaired():
    events = histories(told("IASF"), told("SF", pid=OTHER, at=9))
    assert measure(events, [(WORKER, 4.0)], []).first == []


def test_later_losses_are_told_apart():
    events = histories(told("IAS"), told("S", pid=OTHER, at=9), told("SF", pid=300, at=30))
    found = measure(events, [(WORKER, 4.0), (OTHER, 10.0)], [])
    assert (found.first, found.again) == ([5.0], [20.0])


def test_resume_is_from_the_return_of_the_server():
    events = histories(told("IASF"), told("IASF", key="l", at=20))
    found = measure(events, [], [Fault("server killed", 5, 7, None), Fault("worker killed", 5, 5, None)])
    assert found.resume == [15.0]


def test_quantiles_are_values_that_were_measured():
    assert [quantile([1, 2, 3, 4], share) for share in (0.5, 0.99, 1)] == [3, 4, 4]
    assert quantile([], 0.5) is None
