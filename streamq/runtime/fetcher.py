"""Fetch: free slots -> deliveries, one reader a queue.

A *pass* asks each level without waiting, the most urgent first, until the slots are full or the last level is empty;
every tenth one begins one level lower, in turn, so that none starves. After a pass that brought nothing the
*doorbell* waits on all levels for one entry. Nothing is read that has no slot: its lease would run while it waits.
"""

import time
from collections.abc import Callable

from streamq.core.config import LEVELS, Level
from streamq.core.events import Fetched
from streamq.core.message import Delivery
from streamq.runtime.lane import Lane
from streamq.store.reader import QueueReader

YIELD_EVERY = 10  # passes


class Fetcher:
    """Feeds one queue's deliveries to the dispatcher.

    Args:
        lane: the queue.
        reader: its connection.
        start: what a delivery is handed to.
        release: what becomes of deliveries that have no slot.
        burst: return once nothing is ready and nothing of ours is pending.
    """

    def __init__(
        self, lane: Lane, reader: QueueReader, *, start: Callable[[Delivery], None],
        release: Callable[[Delivery], None], burst: bool = False,
    ) -> None:  # fmt: skip
        self._lane, self._reader = lane, reader
        self._start, self._release = start, release
        self._burst = burst
        self._passes = 0
        self._asked_all = False  # the last pass got as far as the last level

    async def run(self) -> None:
        """Fetch until the worker is quiet, or in a burst until the queue is done."""
        lane = self._lane
        await self._reader.reset()
        while not lane.lifecycle.is_quiet:
            if lane.in_flight.fetchable <= 0:
                await lane.in_flight.changed()
            elif not await self.fetch_ready():
                if not self._burst:
                    await self.await_doorbell()
                elif await self._is_done():
                    return

    async def fetch_ready(self) -> int:
        """One pass. Returns how many entries it brought."""
        brought = 0
        self._asked_all = False
        for level in self.next_order():
            with self._lane.in_flight.reserve(self._lane.in_flight.fetchable) as room:
                if room == 0 or self._lane.lifecycle.is_quiet:
                    return brought
                found = await self._reader.fetch(level, room)
            self._accept(found)
            brought += len(found)
        self._asked_all = True
        return brought

    async def await_doorbell(self) -> None:
        """Wait until something arrives. A wait in vain has asked all levels, so another pass would bring nothing."""
        lane = self._lane
        # No slot is promised to this read, which may go on for long: a worker with few would have none left to take
        # over with.
        while lane.in_flight.fetchable > 0 and not lane.lifecycle.is_quiet:  # both may have changed meanwhile
            found = await self._reader.wait(lane.limits.block)
            self._accept(found)
            if found:
                return

    def next_order(self) -> tuple[Level, ...]:
        """In which order the next pass asks the levels."""
        self._passes += 1
        turn, rest = divmod(self._passes, YIELD_EVERY)
        first = turn % len(LEVELS) if rest == 0 else 0
        return LEVELS[first:] + LEVELS[:first]

    async def _is_done(self) -> bool:
        if len(self._lane.in_flight):
            await self._lane.in_flight.changed()
            return False
        if (await self._lane.store.promote()).moved:
            return False
        # Once more: since the last pass another role may have promoted what was due, or taken something over.
        return not await self.fetch_ready() and self._asked_all and not len(self._lane.in_flight)

    def _accept(self, found: list[Delivery]) -> None:
        self._lane.last_poll = time.monotonic()
        if found and self._lane.observers.routine:
            self._lane.observers.notify_routine(Fetched(self._lane.queue, len(found)))
        for delivery in found:
            # The doorbell may bring one entry a level, and a reclaim may have taken the slots meanwhile: what has no
            # slot goes back.
            if self._lane.in_flight.free > 0 and not self._lane.lifecycle.is_quiet:
                self._start(delivery)
            else:
                self._release(delivery)
