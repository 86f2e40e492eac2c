"""Burst: a worker that ends when nothing is left to do on any of its queues."""

import asyncio
from collections.abc import Sequence

from streamq.runtime.fetcher import Fetcher
from streamq.runtime.lane import Lane
from streamq.runtime.lifecycle import Lifecycle


class Burst:
    """Knows which queues are done. What a handler of one publishes to another makes that one begin again.

    Args:
        lanes: the queues.
        lifecycle: of the worker; quiet when all are done.
    """

    def __init__(self, lanes: Sequence[Lane], lifecycle: Lifecycle) -> None:
        self._lanes, self._lifecycle = lanes, lifecycle
        self._done: set[str] = set()
        self._changed = asyncio.Event()

    async def keep(self, lane: Lane, fetcher: Fetcher) -> None:
        """Fetch one queue until all are done or the worker is quiet.

        Args:
            lane: the queue.
            fetcher: its role, which returns when this queue is done.
        """
        while not self._lifecycle.is_quiet:
            taken = lane.in_flight.taken
            await lane.supervisor.keep("fetch", fetcher.run)
            if lane.in_flight.taken != taken:
                self._done.clear()
            self._done.add(lane.queue)
            self._done -= {other.queue for other in self._lanes if len(other.in_flight)}  # taken over meanwhile
            if len(self._done) == len(self._lanes):
                self._lifecycle.quiet()
            self._changed.set()
            await self._lifecycle.unless_quiet(self._again(lane))

    async def _again(self, lane: Lane) -> None:
        while lane.queue in self._done:
            self._changed.clear()
            await self._changed.wait()
