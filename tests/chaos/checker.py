"""Judges a run by what was written down and what lies in Redis. Pure: no process, no server, no clock.

Order is not promised, so every message is judged by itself.
"""

from collections import Counter, defaultdict
from itertools import pairwise
from typing import NamedTuple

from tests.chaos.history import ACCEPTED, FINISHED, INTENT, OF_PRODUCERS, REFUSED, STARTED
from tests.chaos.story import DONE, HOLDS_THE_GIL, KINDS

# What makes a run fail, worst first.
OFFENCES = {
    "lost": "accepted, and neither finished nor dead nor there",
    "stuck": "still there although everybody had time",
    "doubled": "in two places at the end",
    "ghost": "run or kept although its publish was refused",
    "alien": "run or kept although nobody published it",
    "misrouted": "seen by another queue or handler than its own",
    "innocent": "dead for a reason that is not its own",
    "early": "started before it was due",
    "unexplained": "finished again, and no fault had touched any of its runs",
    "beyond the bound": "more duplicates than the faults of this kind times what they can touch",
}
AFTERMATH = 6.0  # seconds after a fault in which a run may begin that it still touches: it takes a while to reconnect
TOLD_WITHIN = 3.0  # seconds after its finish in which Redis has the outcome of a run that nothing touches
LONG_HOLD = 3.0  # seconds that a handler may hold the GIL before it costs its worker's leases


class Fault(NamedTuple):
    """A fault that happened.

    Attributes:
        kind: of it.
        began, ended: seconds, monotonic.
        slots: numbers of the workers that it hit; None = all.
    """

    kind: str
    began: float
    ended: float
    slots: frozenset[int] | None


class Case(NamedTuple):
    """Everything that there is to judge.

    Attributes:
        events: by key, each list in order.
        remains: the final state of Redis.
        faults: the faults.
        slot_of: pid of each worker -> its slot.
        slots: how many there are.
        touches: how many messages one fault can touch in one worker: its handlers at once.
    """

    events: dict
    remains: object
    faults: list
    slot_of: dict
    slots: int
    touches: int


class Findings(NamedTuple):
    """The verdict.

    Attributes:
        offences: offence -> keys, or kinds of faults for ``beyond the bound``.
        counts: accepted, finished, ...
        duplicates: kind of fault -> extra finishes that it explains.
        bounds: kind of fault -> how many it may cause.
        dead: reason -> dead letters.
    """

    offences: dict[str, list[str]]
    counts: Counter
    duplicates: Counter
    bounds: dict[str, int]
    dead: Counter

    @property
    def clean(self):
        """Whether nothing is off."""
        return not any(self.offences.values())


def check(case):
    """Judge a run."""
    offences = {offence: [] for offence in OFFENCES}
    letters = defaultdict(list)
    for letter in case.remains.letters:
        letters[letter.key].append(letter)
    counts, duplicates = Counter(), Counter()
    faults = sorted([*case.faults, *_of_handlers(case)], key=lambda fault: fault.began)
    for key in {*case.events, *letters, *case.remains.left}:
        message = _Message(key, case.events.get(key, []), letters[key], case.remains.left.get(key, []))
        for offence in message.judge(counts):
            offences[offence].append(key)
        for before, again in pairwise(message.finishes):
            cause = _cause(before, again, message, faults, case.slot_of)
            duplicates[cause or "none"] += 1
            if cause is None:
                offences["unexplained"].append(key)
    bounds = _bounds(faults, case)
    offences["beyond the bound"] = [kind for kind, bound in bounds.items() if duplicates[kind] > bound]
    dead = Counter(letter.reason for letter in case.remains.letters)
    return Findings(offences, counts, duplicates, bounds, dead)


class _Message:
    """One message: what was said of it, and what became of it."""

    def __init__(self, key, events, letters, left):
        self.key, self.letters, self.left = key, letters, left
        self.said = [event for event in events if event.what in OF_PRODUCERS]
        self.runs = [event for event in events if event.what not in OF_PRODUCERS]
        self.intent = next((event for event in self.said if event.what == INTENT), None)
        self.starts = [event for event in self.runs if event.what == STARTED]
        self.finishes = [event for event in self.runs if event.what == FINISHED]
        self.seen = bool(self.runs or letters or left)

    def judge(self, counts):
        """The offences, and what there is to count."""
        if self.intent is None:
            yield "alien"
            return
        counts["published"] += 1
        counts["starts"] += len(self.starts)
        told = {event.what for event in self.said}
        if ACCEPTED not in told and REFUSED in told:
            counts["refused"] += 1
            if self.seen:
                yield "ghost"
            return
        if ACCEPTED in told:
            counts["accepted"] += 1
        else:
            counts["unknown"] += 1
            if not self.seen:
                return  # then it was not
            counts["unknown, but in"] += 1
        yield from self._ends(counts)
        yield from self._way()

    def _ends(self, counts):
        fates = KINDS[self.intent.kind].fates
        counts["finished"] += bool(self.finishes)
        counts["again"] += len(self.finishes[1:])
        if any(letter.reason not in fates for letter in self.letters):
            yield "innocent"
        if len(self.letters) + len(self.left) > 1:
            yield "doubled"
        if self.left:
            yield "stuck"
        elif not self.letters and not (self.finishes and DONE in fates):
            yield "lost"

    def _way(self):
        queue, kind = self.intent.queue, self.intent.kind
        if any((run.queue, run.kind) != (queue, kind) for run in self.runs) or any(
            letter.queue != queue for letter in self.letters
        ):
            yield "misrouted"
        delay = float(self.intent.note)
        if delay and any(start.at < self.intent.at + delay for start in self.starts):
            yield "early"


def _of_handlers(case):
    """Handlers that stop every thread of their worker for long are faults, too: the message's, not ours."""
    for told in case.events.values():
        for number, event in enumerate(told):
            if event.kind == HOLDS_THE_GIL and event.what == STARTED:
                end = next((e.at for e in told[number + 1 :] if e.pid == event.pid and e.what == FINISHED), event.at)
                if end - event.at > LONG_HOLD:
                    yield Fault("handler held the GIL", event.at, end, frozenset({_slot(event, case.slot_of)}))


def _slot(event, slot_of):
    """Where a run took place: in a worker, or in its child."""
    return slot_of.get(event.pid, slot_of.get(event.parent, -1))


def _cause(before, again, message, faults, slot_of):
    """The kind of fault that explains a repetition: the nearest to the finish before it that touched one of its runs.

    One worker's faults come before everybody's: there is always one of those somewhere near.
    """
    first = min((start.at for start in message.starts), default=before.at)
    hit = {_slot(run, slot_of) for run in message.runs if run.at <= again.at}
    near = [fault for fault in faults if fault.ended + AFTERMATH >= first and fault.began <= before.at + TOLD_WITHIN]
    own = [fault for fault in near if fault.slots is not None and fault.slots & hit]
    everybodys = [fault for fault in near if fault.slots is None]
    nearest = min(own or everybodys, key=lambda b: max(b.began - before.at, before.at - b.ended, 0), default=None)
    return nearest and nearest.kind


def _bounds(faults, case):
    bounds = Counter()
    for fault in faults:
        bounds[fault.kind] += case.touches * (case.slots if fault.slots is None else len(fault.slots))
    return dict(bounds)
