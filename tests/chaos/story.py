"""The messages of the run: what kinds there are, how often, and what may become of each."""

import time
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

QUEUES = ("alpha", "beta", "gamma")
LEVELS = ("critical", "high", "normal", "low")
DONE = "done"


class Kind(NamedTuple):
    """One kind of message.

    Attributes:
        weight: how often, beside the others.
        fates: the ends that are right: ``done``, or reasons of a dead letter.
        payload: what its handler is given beside the key.
        options: how it is published.
        queues: where to.
    """

    weight: float
    fates: frozenset[str] = frozenset({DONE})
    payload: Callable[[Random], dict[str, Any]] = lambda _: {}
    options: Callable[[Random], dict[str, Any]] = lambda _: {}
    queues: tuple[str, ...] = QUEUES

    @property
    def kills(self):
        """Whether it is meant to take its process down."""
        return "poison" in self.fates


def _seconds(least, most):
    return lambda random: {"seconds": round(random.uniform(least, most), 3)}


def _dies(*reasons):
    return frozenset(reasons)


KINDS = {
    "quick": Kind(50),
    "slow": Kind(20, payload=_seconds(0.02, 0.6)),
    "long": Kind(0.4, payload=_seconds(5, 9)),  # longer than a lease
    "thread": Kind(10, payload=_seconds(0.02, 0.3)),
    "child": Kind(3, payload=_seconds(0.0, 0.2), queues=("beta",)),
    "flaky": Kind(8, payload=lambda random: {"times": random.randint(1, 3)}),
    "again": Kind(3),
    "snoozing": Kind(3, payload=lambda random: {"until": time.time() + random.uniform(0.5, 3)}),
    "later": Kind(6, options=lambda random: {"delay": round(random.uniform(0.5, 6), 3)}),
    "once": Kind(3, options=lambda random: {"idempotency_key": f"once-{random.getrandbits(64):x}"}),
    "unneeded": Kind(2),
    "hanging": Kind(0.5, options=lambda _: {"timeout": 1.0}),
    "novel": Kind(2),  # only the next version of the app knows it
    "fleeting": Kind(1, _dies(DONE, "expired"), options=lambda _: {"expires": 1.0}),
    "doomed": Kind(1, _dies("max_retries")),
    "refused": Kind(1, _dies("rejected")),
    "overdue": Kind(0.3, _dies("timeout"), options=lambda _: {"timeout": 1.0}),
    "blocker": Kind(0.15, payload=_seconds(1, 3)),
    "gil": Kind(0.03, payload=lambda _: {"length": 24}),
    "hungry": Kind(0.4),
    "poison": Kind(0.05, _dies("poison", "max_deliveries")),
    "poison_child": Kind(0.15, _dies("poison", "max_deliveries"), queues=("beta",)),
}
HOLDS_THE_GIL = "gil"


class Plan(NamedTuple):
    """One message that is to be published."""

    key: str
    queue: str
    kind: str
    payload: dict[str, Any]
    options: dict[str, Any]


class Author:
    """Makes up messages.

    Args:
        name: first part of every key; no other author has it.
        seed: what it makes up follows from it alone.
        kinds: weights that replace those above; 0 leaves a kind out.
    """

    def __init__(self, name, seed, weights=None):
        self._name, self._random, self._count = name, Random(f"{seed}/{name}"), 0
        weights = {kind: (weights or {}).get(kind, KINDS[kind].weight) for kind in KINDS}
        self._kinds = [kind for kind, weight in weights.items() if weight]
        self._weights = [weights[kind] for kind in self._kinds]

    def next(self, kind=None):
        """The next message, of any kind or of this one."""
        self._count += 1
        random = self._random
        name = kind or random.choices(self._kinds, self._weights)[0]
        made = KINDS[name]
        key = f"{self._name}-{self._count}"
        payload = {"type": name, "key": key, **made.payload(random)}
        options = {"priority": random.choices(LEVELS, (1, 2, 8, 2))[0], **made.options(random)}
        return Plan(key, random.choice(made.queues), name, payload, options)
