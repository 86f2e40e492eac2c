"""One soak: steady load, one fault after the other, and a line through everything that must not grow."""

import copy
import itertools
from dataclasses import dataclass
from typing import NamedTuple

from tests.chaos import run as chaos
from tests.chaos.house import APPS, SETTINGS
from tests.chaos.schedule import FAULTS, Action
from tests.soak.leaky import LEAK
from tests.soak.sampler import BOUNDS, Sampler
from tests.soak.slope import Slope, slope

# What is kept on purpose would look like a leak: dead letters, keys that remember for a day. And what takes its worker
# down leaves no series that is long enough.
STEADY = ("once", "doomed", "refused", "overdue", "fleeting", "hungry", "poison", "poison_child", "gil")
WEIGHTS = ",".join(f"{kind}=0" for kind in STEADY)
# These end a worker. The first one is spared, so that one life is as long as the run: what a worker takes while it is
# young must not be mistaken for what it would take for ever.
ENDS = frozenset({"worker killed", "worker told to end", "worker told twice"})
KINDS = {kind: times for kind, times in FAULTS.items() if kind != "rolling restart"}  # it would end that one, too
SEEN_WINDOW = "10s"  # ids are forgotten so fast that they come and go many times in a run


@dataclass
class Options(chaos.Options):
    """What a soak is.

    Attributes:
        every: seconds between two faults; all kinds take turns.
        settle: seconds that a process gets to become steady. Its memory is the high-water mark of what it held at once,
            in every size and of every thread, so it rises in ever smaller steps with the first bursts, while the
            number of live objects stays what it is (tests/runtime/test_growth.py counts them).
        leak: what a handler leaks on purpose: memory, fds, keys, tasks, separated by commas.
    """

    every: float = 60.0
    settle: float = 120.0
    leak: str = ""


class Line(NamedTuple):
    """One thing that must not grow.

    Attributes:
        name: of it.
        found: its slope.
        bound: by how much it may grow over a run.
    """

    name: str
    found: Slope
    bound: float

    @property
    def grows(self):
        """Whether it does, for sure and by more than may be."""
        return self.found.surely > self.bound


def run(options):
    """Run it. Returns the result of the chaos checker, the lines, and the directory of the logs."""
    samplers = []

    def watch(house):
        samplers.append(Sampler(house, options.settle))
        return samplers[0]

    settings = copy.deepcopy(SETTINGS)
    settings["worker"]["seen_window"] = SEEN_WINDOW
    leaky = {"apps": ("tests.soak.leaky:app",) * 2, "variables": {LEAK: options.leak}} if options.leak else {}
    result, folder = chaos.run(
        options,
        actions=in_turn(options.every, options.workers),
        watch=watch,
        weights=WEIGHTS,
        settings=settings,
        http=True,
        **{"apps": APPS, **leaky},
    )
    lines = [Line(name, slope(samplers[0].series[name].values()), bound) for name, bound in BOUNDS.items()]
    options.say(table(lines))
    grown = [line.name for line in lines if line.grows]
    options.say(f"{samplers[0].count} samples; " + (f"FAILED: {', '.join(grown)}" if grown else "nothing grows"))
    return result, lines, folder


def in_turn(every, workers):
    """All kinds of faults, one after the other, for ever."""
    for number, (kind, (_, least, most)) in enumerate(itertools.cycle(KINDS.items())):
        victim = 1 + number % (workers - 1) if kind in ENDS else number
        yield Action(every, kind, victim, everywhere=False, seconds=(least + most) / 2, count=5)


def table(lines):
    """Slopes with their doubt, and what they may have come to."""
    rows = [f"  {'':<14} {'an hour':>12} {'+-':>12} {'over':>8} {'at least':>10} {'allowed':>8} {'points':>7}"]
    for name, found, bound in lines:
        if found.per_second is None:
            rows.append(f"  {name:<14} {'too little was measured':>25}")
            continue
        hourly, doubt = 3600 * found.per_second, 3600 * found.doubt
        rows.append(
            f"  {name:<14} {hourly:>12.2f} {doubt:>12.2f} {found.span:>6.0f} s {found.surely:>10.2f} {bound:>8}"
            f" {found.points:>7}"
        )
    return "\n".join(rows)
