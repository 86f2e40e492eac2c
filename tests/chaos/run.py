"""One run, from the first process to the verdict."""

import contextlib
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.chaos import checker, history, naive, recovery, remains, report
from tests.chaos.faults import Faults
from tests.chaos.house import CONCURRENCY, House
from tests.chaos.ledger import Ledger
from tests.chaos.schedule import schedule
from tests.chaos.story import QUEUES
from tests.support import wait_until

TICK = 0.05  # seconds
PROGRESS = 5.0  # seconds
LOOK = 0.5  # seconds between two looks while it drains
# Exit codes that a worker may have. 69: it was started while the server was away for 10 s.
CODES = frozenset({0, 75, 69, 130, -2, -9, -15})


@dataclass
class Options:
    """What a run is.

    Attributes:
        minutes: how long faults happen; the drain comes on top.
        seed: the schedule of faults and the messages follow from it, the timing of the machine does not.
        server: its kind.
        fsync: its appendfsync.
        naive: the deliberately naive worker instead of streamq.
        gap: seconds between two faults, on average.
        rate: messages a second.
        drain: seconds that everybody gets after the last fault.
        workers: how many.
        say: where progress goes.
    """

    minutes: float
    seed: str
    server: str = "valkey-9.1"
    fsync: str = "everysec"
    naive: bool = False
    gap: float = 2.0
    rate: float = 80.0
    drain: float = 150.0
    workers: int = 4
    say: object = field(default=print)


class Result(NamedTuple):
    """What came of it.

    Attributes:
        findings: of the checker.
        recovery: seconds.
        faults: how many of each kind.
        deaths: workers that died.
        ledger: its samples; None of the naive worker, which keeps none.
        drained_in: seconds.
        complaints: what else is off, in words.
    """

    findings: checker.Findings
    recovery: recovery.Recovery
    faults: Counter
    deaths: int
    ledger: Ledger | None
    drained_in: float
    complaints: list[str]

    @property
    def clean(self):
        """Whether nothing is off."""
        return self.findings.clean and not self.complaints and not (self.ledger and self.ledger.broken)


def run(options, *, actions=None, watch=lambda _: contextlib.nullcontext(), **more):
    """Run it. Returns the result and the directory of its logs; those of a clean run may be deleted.

    Args:
        options: what it is.
        actions: other faults than those of the seed.
        watch: called with the house; what it returns is open while faults happen.
        **more: for the house.
    """
    folder = Path(tempfile.mkdtemp(prefix="streamq-chaos-"))
    options.say(f"seed {options.seed}, {options.server}, logs in {folder}")
    house = House(
        folder, kind=options.server, fsync=options.fsync, workers=options.workers, rate=options.rate,
        seed=options.seed, naive=options.naive, **more,
    )  # fmt: skip
    with house:
        faults = Faults(house, actions or schedule(options.seed, options.gap))
        if options.naive:
            ledger, drained_in, found = None, *_naive_life(house, faults, watch, options)
        else:
            ledger, drained_in, found = _life(house, faults, watch, options)
    events = history.read(folder)
    case = checker.Case(
        events, found, [*faults.happened, *_crashes(house)], house.slot_of, len(house.slots), CONCURRENCY * len(QUEUES)
    )
    findings = checker.check(case)
    complaints = [] if options.naive else [*_codes(house), *_books(ledger, findings)]
    deaths = [(process.pid, at) for process, at in house.deaths]
    times = recovery.measure(_known(events), deaths, faults.happened)
    result = Result(findings, times, faults.counts(), len(deaths), ledger, drained_in, complaints)
    options.say(report.table(result))
    if not result.clean:
        options.say(report.offences(result, case))
    options.say(f"seed {options.seed}: {'nothing is off' if result.clean else 'FAILED'}; logs in {folder}")
    return result, folder


def _life(house, faults, watch, options):
    """From the first fault to the last message. Returns the ledger, how long the drain took, and what is left."""
    with Ledger(house.url) as ledger:
        with watch(house):
            _storm(house, faults, ledger, options)
        drained_in = _drain(house, ledger.left, options)
        ledger.take()
    return ledger, drained_in, remains.read(house.url)


def _naive_life(house, faults, watch, options):
    """The same without a ledger: the naive worker keeps none."""
    with watch(house):
        _storm(house, faults, None, options)
    drained_in = _drain(house, lambda: len(naive.read(house.url).left), options)
    return drained_in, naive.read(house.url)


def _storm(house, faults, ledger, options):
    """Faults, until it is enough."""
    began = told = time.monotonic()
    while (now := time.monotonic()) < began + 60 * options.minutes:
        house.look_after()
        faults.tick()
        if now - told > PROGRESS:
            told = now
            sample = ledger.last if ledger else None
            options.say(report.progress(now - began, sample, len(faults.happened), len(house.workers)))
        time.sleep(TICK)
    faults.stop()


def _drain(house, left, options):
    """Producers end, the next version is everywhere, what is there has time to be done. Returns how long it took."""
    began = told = time.monotonic()
    for slot in house.slots:
        if slot.version == 0:
            slot.version = 1
            slot.replace()
    house.stop_producers()
    while (now := time.monotonic()) < began + options.drain:
        house.look_after()
        if house.producers_ended and left() == 0:
            break
        if now - told > PROGRESS:
            told = now
            options.say(f"draining for {now - began:.0f} s: {left()} left")
        time.sleep(LOOK)
    took = time.monotonic() - began
    wait_until(lambda: house.producers_ended, 60)
    house.stop_workers()
    return took


def _crashes(house):
    """Deaths that we did not cause: a message did, or the lack of memory."""
    for process, at in house.deaths:
        if not process.killed:
            yield checker.Fault("worker crashed", at, at, frozenset({house.slot_of[process.pid]}))


def _known(events):
    return {key: told for key, told in events.items() if told[0].what in history.OF_PRODUCERS}


def _codes(house):
    """Ends of workers that nobody can explain: a bug that took one down."""
    for process, _ in house.ends:
        limited = house.slots[house.slot_of[process.pid]].limited  # whoever has no memory may end in any way
        if process.code not in CODES and not limited:
            yield f"worker {process.pid} ended with {process.code}: see {process.log}"
    for process in house.deaf:
        yield f"worker {process.pid} did not end when it was asked to: see {process.log}"
    for producer in house.producers:
        if producer.code != 0:
            yield f"producer {producer.pid} ended with {producer.code}: see {producer.log}"


def _books(ledger, findings):
    """The ledger and the producers must have counted the same."""
    counts = findings.counts
    accepted = ledger.last.total("accepted")
    least = counts["accepted"] + counts["unknown, but in"]
    if accepted != least:
        yield f"the ledger says that {accepted} messages were accepted, the histories say {least}"
    ended = sum(ledger.last.total(name) for name in ("done", "dropped", "dead"))
    if ended + ledger.last.left != accepted:
        yield f"of {accepted} accepted messages {ended} came to an end and {ledger.last.left} are left"
