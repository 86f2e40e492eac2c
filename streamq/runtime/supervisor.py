"""Keeps a role running through outages: said once, repeated with growing pauses, for ever. A bug is not an outage."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from streamq.core.backoff import reconnect_delay
from streamq.core.errors import RedisUnavailable
from streamq.core.events import Observers
from streamq.core.events import RedisUnavailable as Outage
from streamq.runtime.lifecycle import Lifecycle
from streamq.store.outages import GroupMissing, RedisRefused

T = TypeVar("T")

STEADY = 10.0  # seconds after which a role that ran counts as well again


class Supervisor:
    """Runs the roles of one queue.

    Args:
        queue: named in what is said.
        lifecycle: ends the pauses.
        observers: who is told of outages.
        ensure: makes the consumer group again when it is gone.
    """

    def __init__(
        self, queue: str, lifecycle: Lifecycle, observers: Observers, ensure: Callable[[], Awaitable[None]]
    ) -> None:
        self._queue = queue
        self._lifecycle = lifecycle
        self._observers = observers
        self._ensure = ensure

    async def keep(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run a role until it returns; whenever Redis is unavailable, pause and run it again.

        Args:
            name: of the role.
            run: the role; it returns when the worker is quiet.
        """
        outage, mend = _Outage(), False
        while not self._lifecycle.is_quiet:
            try:
                if mend:
                    await self._ensure()
                    self._over(name, outage)
                outage.began_at = time.monotonic()
                await run()
                return
            except RedisUnavailable as error:
                self._failed(name, outage, error)
                mend = not isinstance(error, RedisRefused)  # what it refuses is for an operator to mend
                # A missing group is mended at once; everything else needs somebody else's time.
                if not (isinstance(error, GroupMissing) and outage.failures == 1):
                    await self._lifecycle.pause(reconnect_delay(outage.failures))

    async def insist(self, name: str, write: Callable[[], Awaitable[T]], worthwhile: Callable[[], bool]) -> T | None:
        """Repeat a write until its result is known. It goes on while the worker is quiet: outcomes must not be lost.

        Args:
            name: of the role.
            write: what to do; safe to be done twice.
            worthwhile: asked before each repetition.

        Returns:
            What ``write`` returned; None when it was not worthwhile any more.
        """
        outage = _Outage()
        while True:
            try:
                result = await write()
            except RedisUnavailable as error:
                self._failed(name, outage, error)
                await asyncio.sleep(reconnect_delay(outage.failures))
                if not worthwhile():
                    return None
                if isinstance(error, GroupMissing):
                    with contextlib.suppress(RedisUnavailable):
                        await self._ensure()
            else:
                self._over(name, outage)
                return result

    def _failed(self, name: str, outage: "_Outage", error: RedisUnavailable) -> None:
        if time.monotonic() - outage.began_at > STEADY:
            outage.failures = 0
        outage.began_at = float("inf")  # nothing runs now: tries that fail slowly are no sign of health
        outage.failures += 1
        if not outage.told:
            outage.told = True
            self._observers.notify(Outage(self._queue, name, str(error), outage.failures))

    def _over(self, name: str, outage: "_Outage") -> None:
        if outage.told:
            outage.told = False
            self._observers.notify(Outage(self._queue, name, "", outage.failures, back=True))


@dataclass(slots=True)
class _Outage:
    failures: int = 0
    told: bool = False
    began_at: float = float("inf")  # monotonic: since when the role runs
