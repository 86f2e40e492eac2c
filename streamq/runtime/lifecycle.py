"""Where a worker stands in its life, and how it is told to end."""

import asyncio
from collections.abc import Awaitable
from enum import StrEnum


class State(StrEnum):
    """The states of a worker, in the order in which it passes through them."""

    STARTING = "starting"
    RUNNING = "running"
    QUIET = "quiet"  # takes no more, finishes what it has
    STOPPED = "stopped"


class Lifecycle:
    """What the roles of a worker ask and what tells them to end.

    ``quiet`` is asked for once and cannot be taken back. ``hurry`` means that nobody waits for running handlers.
    """

    def __init__(self) -> None:
        self.state = State.STARTING
        self.failure: BaseException | None = None
        self._quiet = asyncio.Event()
        self._hurry = asyncio.Event()

    @property
    def is_quiet(self) -> bool:
        """Whether the worker takes no more."""
        return self._quiet.is_set()

    def started(self) -> None:
        """The first queue is being read."""
        if not self.is_quiet:
            self.state = State.RUNNING

    def quiet(self) -> None:
        """Take no more."""
        self.state = State.QUIET
        self._quiet.set()

    def hurry(self) -> None:
        """Take no more, and do not wait for what runs."""
        self.quiet()
        self._hurry.set()

    def fail(self, error: BaseException) -> None:
        """A bug: stop, and let ``Worker.run`` raise it."""
        self.failure = self.failure or error
        self.hurry()

    async def until_quiet(self) -> None:
        """Wait to be told to end."""
        await self._quiet.wait()

    async def unless_quiet(self, awaitable: Awaitable[object]) -> None:
        """Wait for something, but not when it is time to be quiet."""
        waits = [asyncio.ensure_future(awaitable), asyncio.ensure_future(self._quiet.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def until_hurry(self) -> None:
        """Wait to be told not to wait."""
        await self._hurry.wait()

    async def pause(self, seconds: float, *wakers: asyncio.Event) -> bool:
        """Sleep, unless it is time to be quiet or one of ``wakers`` is set.

        Args:
            seconds: how long.
            wakers: events that end the sleep early.

        Returns:
            True when it is time to be quiet.
        """
        events = (self._quiet, *wakers)
        if not any(event.is_set() for event in events) and seconds > 0:
            waits = [asyncio.ensure_future(event.wait()) for event in events]
            try:
                await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
        return self.is_quiet
