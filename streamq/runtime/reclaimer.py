"""Reclaim: entries of workers that vanished -> deliveries. They join the path of the fetched ones."""

import asyncio
import random
import time
from collections.abc import Callable

from streamq.core.events import Reclaimed, Vanished
from streamq.core.message import Delivery
from streamq.runtime.lane import Lane
from streamq.store.streams import NO_CURSORS

PAGE = 50  # entries a call: XAUTOCLAIM of more would block Redis for milliseconds


class Reclaimer:
    """Looks for orphans of one queue.

    Args:
        lane: the queue.
        start: what a delivery is handed to.
    """

    def __init__(self, lane: Lane, *, start: Callable[[Delivery], None]) -> None:
        self._lane = lane
        self._start = start
        # The cursor is kept over calls: each looks at a part of the pending entries only, and an empty page is not
        # the end of them.
        self._cursors: tuple[str, ...] = NO_CURSORS
        self._silent: tuple[str, ...] = ()
        self._hint = asyncio.Event()

    def hint(self, silent: list[str]) -> None:
        """A beat found consumers that do not beat any more."""
        if silent and not self._lane.lifecycle.is_quiet:
            self._silent = tuple(silent)
            self._hint.set()

    async def run(self) -> None:
        """Look every lease/4 +- 25 %, and at once when somebody fell silent, until the worker is quiet."""
        every = self._lane.config.lease / 4
        while not await self._lane.lifecycle.pause(every * random.uniform(0.75, 1.25), self._hint):
            self._hint.clear()
            while await self._has_room() and await self.sweep():
                pass

    async def sweep(self) -> int:
        """Look until the slots are full or every pending entry was seen. Returns how many were taken over."""
        taken = 0
        while not self._lane.lifecycle.is_quiet:
            with self._lane.in_flight.reserve(PAGE) as room:
                if room == 0:
                    break
                asked_at = time.monotonic()
                found = await self._lane.store.reclaim(
                    self._lane.consumer,
                    lease_ms=round(self._lane.config.lease * 1000),
                    count=room,
                    silent_after_ms=round(self._lane.limits.silent_after * 1000),
                    max_deliveries=self._lane.config.max_deliveries,
                    cursors=self._cursors,
                    silent=self._silent,
                )
            self._cursors = found.cursors
            taken += len(found.deliveries)
            for delivery in found.deliveries:
                delivery.proven_at = asked_at
                self._start(delivery)
            if found.vanished:
                self._lane.observers.notify(Vanished(self._lane.queue, found.vanished))
            if found.deliveries or found.suspects or found.dead:
                event = Reclaimed(self._lane.queue, len(found.deliveries), found.suspects, found.dead)
                self._lane.observers.notify(event)
            elif found.grace or found.cursors == NO_CURSORS:
                break
        return taken

    async def _has_room(self) -> bool:
        """Wait for a free slot, before fetches get it. Returns whether there is one; else the worker is quiet."""
        in_flight = self._lane.in_flight
        in_flight.claimed = True
        try:
            while in_flight.free <= 0 and not self._lane.lifecycle.is_quiet:
                await in_flight.changed()
        finally:
            in_flight.claimed = False
        return not self._lane.lifecycle.is_quiet
