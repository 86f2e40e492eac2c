"""Tidy up: consumers that are gone and hold nothing are forgotten."""

import random

from streamq.runtime.lane import Lane

EVERY = 60.0  # seconds


class Janitor:
    """Sweeps one queue's consumer group.

    Args:
        lane: the queue.
    """

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    async def run(self) -> None:
        """Sweep about once a minute until the worker is quiet."""
        while not await self._lane.lifecycle.pause(EVERY * random.uniform(0.75, 1.25)):
            await self.sweep()

    async def sweep(self) -> int:
        """Forget who has been silent for long and has nothing pending. Returns how many went."""
        dead_after = max(60.0, 5 * self._lane.limits.silent_after)
        gone = 0
        # A group that was made anew does not know who beat under the old one: those are only called silent, for ever.
        names = {*await self._lane.store.consumers(), *self._lane.silent}
        for consumer in sorted(names):
            if consumer != self._lane.consumer:
                word = await self._lane.store.forget(consumer, dead_after_ms=round(dead_after * 1000))
                gone += word == "OK"
        return gone
