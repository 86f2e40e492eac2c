"""The end of a worker: give back what has not begun, wait for what runs, cut short what is left."""

import asyncio
from collections.abc import Sequence

from streamq.runtime.dispatcher import Dispatcher
from streamq.runtime.lifecycle import Lifecycle

CANCEL_PATIENCE = 2.5  # seconds that handlers get to end after they were cut short, and Redis to hear of them


class Drain:
    """Ends what the dispatchers of one worker hold.

    Args:
        dispatchers: of all its queues.
        lifecycle: says when nobody waits any more.
    """

    def __init__(self, dispatchers: Sequence[Dispatcher], lifecycle: Lifecycle) -> None:
        self._dispatchers = dispatchers
        self._lifecycle = lifecycle

    async def run(self, timeout: float) -> int:
        """Let what runs end within ``timeout`` seconds. Returns how many handlers were cut short and handed back."""
        for dispatcher in self._dispatchers:
            dispatcher.release_unstarted()
        if await self._empty_within(timeout):
            return 0
        cancelled = sum(dispatcher.cancel_started() for dispatcher in self._dispatchers)
        if not await self._told_within(CANCEL_PATIENCE):
            for dispatcher in self._dispatchers:
                dispatcher.give_back()
            if not await self._told_within(CANCEL_PATIENCE):  # Redis is away: others take over what it never heard of
                cancelled = max(cancelled, sum(dispatcher.held() for dispatcher in self._dispatchers))
        return cancelled

    async def abort(self) -> None:
        """No handler outlives its worker: after a drain there is nothing to end, after a cancellation there may be."""
        tasks = [task for dispatcher in self._dispatchers for task in dispatcher.abort()]
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_PATIENCE)

    async def _empty_within(self, timeout: float) -> bool:
        """Whether all handlers ended before the time was up or somebody was in a hurry."""

        async def all_empty() -> None:
            for dispatcher in self._dispatchers:
                await dispatcher.empty()

        waits = [asyncio.ensure_future(all_empty()), asyncio.ensure_future(self._lifecycle.until_hurry())]
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        done = waits[0].done()
        for wait in waits:
            wait.cancel()
        return done

    async def _told_within(self, timeout: float) -> bool:
        """Whether Redis has heard of every outcome before the time was up."""
        try:
            async with asyncio.timeout(timeout):
                for dispatcher in self._dispatchers:
                    await dispatcher.told()
        except TimeoutError:
            return False
        return True
