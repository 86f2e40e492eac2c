"""Whether a worker works: able to fetch and to run, not merely a process that exists."""

import time
from collections.abc import Sequence
from typing import NamedTuple

from streamq.runtime.lane import Lane
from streamq.runtime.lifecycle import Lifecycle, State

PULSE = 1.0  # seconds between two signs of life of the event loop
STALLED = 10.0  # seconds without one: the loop is blocked


class Verdict(NamedTuple):
    """An answer to a probe.

    Attributes:
        ok: whether all is well.
        text: why not.
    """

    ok: bool
    text: str


class Health:
    """Answers probes, from any thread.

    Args:
        lanes: the worker's queues.
        lifecycle: of the worker.
    """

    def __init__(self, lanes: Sequence[Lane], lifecycle: Lifecycle) -> None:
        self._lanes = lanes
        self._lifecycle = lifecycle
        self._pulse = time.monotonic()

    async def run(self) -> None:
        """Give signs of life until the worker is quiet."""
        while not await self._lifecycle.pause(PULSE):
            self._pulse = time.monotonic()

    def lag(self) -> float:
        """Seconds by which the loop's next sign of life is late; 0 = it is not."""
        if self._lifecycle.state is not State.RUNNING:
            return 0.0
        return max(0.0, time.monotonic() - self._pulse - PULSE)

    def live(self) -> Verdict:
        """Whether the event loop turns. Redis may be away: a restart would not bring it back."""
        silent = time.monotonic() - self._pulse
        if self._lifecycle.state is State.RUNNING and silent > STALLED:
            return Verdict(False, f"the event loop has been blocked for {silent:.0f} s")
        return Verdict(True, "ok")

    def ready(self) -> Verdict:
        """Whether every queue is being read."""
        if self._lifecycle.state is not State.RUNNING:
            return Verdict(False, self._lifecycle.state)
        for lane in self._lanes:
            age = time.monotonic() - lane.last_poll
            if lane.in_flight.free > 0 and age > 3 * lane.limits.block + 2:
                return Verdict(False, f"{lane.queue} has not been read for {age:.0f} s")
            if lane.in_flight.free > 0:
                continue
            silent = time.monotonic() - lane.last_beat  # without a free slot it does not read, but it must beat
            if silent > lane.limits.silent_after:
                return Verdict(False, f"{lane.queue}: no beat has reached Redis for {silent:.0f} s")
        return Verdict(True, "ok")
