"""Which faults, when and for how long: it follows from the seed alone."""

import itertools
from random import Random
from typing import NamedTuple

from tests.chaos.house import SETTINGS

LEASE = float(SETTINGS["defaults"]["lease"].removesuffix("s"))

# kind: (how often beside the others, shortest, longest). Seconds, where it lasts.
FAULTS = {
    "worker killed": (10, 0, 0),
    "worker stopped": (5, 0.5 * LEASE, 2 * LEASE),  # around the lease
    "worker told to end": (4, 0, 0),
    "worker told twice": (2, 0, 0),
    "rolling restart": (2, 0, 0),
    "producer killed": (2, 0, 0),
    "replies cut": (4, 0, 0),
    "replies halved": (4, 0, 0),
    "network slow": (3, 1, 5),
    "network thin": (2, 1, 4),
    "network silent": (3, 0.5, 1.5 * LEASE),
    "network refuses": (2, 0.5, 4),
    "connections reset": (2, 0, 0),
    "server killed": (3, 0, 2),
    "server frozen": (3, 0.3, 1.3 * LEASE),
    "clients killed": (2, 0, 0),
    "memory full": (2, 1, 4),
    "scripts forgotten": (1, 0, 0),
}
BEFORE_A_LULL, LULL = 16, 15.0  # faults, then seconds without one: what is run twice then has no excuse


class Action(NamedTuple):
    """What is to happen.

    Attributes:
        gap: seconds after the one before.
        kind: of the fault.
        victim: number of a slot, or of a producer; more than there are begin again at the first.
        everywhere: a fault of the network hits all proxies, not only one worker's.
        seconds: how long it lasts.
        count: how many replies.
    """

    gap: float
    kind: str
    victim: int
    everywhere: bool
    seconds: float
    count: int


def schedule(seed, mean_gap, kinds=FAULTS):
    """The faults of a seed, for ever.

    Args:
        seed: anything.
        mean_gap: seconds between two, on average.
        kinds: which, as above.
    """
    random = Random(f"{seed}/faults")
    names = list(kinds)
    weights = [kinds[name][0] for name in names]
    for number in itertools.count(1):
        kind = random.choices(names, weights)[0]
        _, least, most = kinds[kind]
        yield Action(
            gap=random.uniform(0.3, 1.7) * mean_gap + (0 if number % BEFORE_A_LULL else LULL),
            kind=kind,
            victim=random.randrange(10**6),
            everywhere=random.random() < 0.25,
            seconds=random.uniform(least, most),
            count=random.randint(1, 12),
        )
