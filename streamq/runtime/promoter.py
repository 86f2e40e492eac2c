"""Promote: what is due -> its stream."""

from streamq.core.events import Noticed, Promoted
from streamq.runtime.lane import Lane

PAGE = 100  # messages a call
LONGEST_PAUSE = 1.0  # seconds: somebody may publish something that is due sooner than all the rest
TOLERANCE = 2.0  # seconds by which the clock of Redis may run ahead of ours between two calls
DISTRUST = 10.0  # seconds to wait after it jumped


class Promoter:
    """Watches the delayed messages of one queue.

    Args:
        lane: the queue.
    """

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        # Its own: a beat that hears of a jump first would make the lane's clock believe it.
        self._clock = lane.clock.another()

    async def run(self) -> None:
        """Promote what becomes due, until the worker is quiet."""
        pause = 0.0
        while not await self._lane.lifecycle.pause(pause):
            pause = await self.promote()

    async def promote(self) -> float:
        """One look. Returns how many seconds to wait before the next one."""
        lane = self._lane
        result = await lane.store.promote(limit=PAGE, max_now_ms=self._clock.latest_ms(TOLERANCE))
        # A request that was long on its way (a server that froze, a slow network) says an old time: that is no jump.
        late = result.now_ms <= self._clock.latest_ms(TOLERANCE)
        self._clock.heard(result.now_ms)
        lane.clock.heard(result.now_ms)
        if result.clock_jumped and late:
            return 0.0
        if result.clock_jumped:
            text = "the clock of Redis jumped ahead; delayed messages wait 10 s to see whether it stays"
            lane.observers.notify(Noticed(lane.queue, text))
            return DISTRUST
        if result.moved and lane.observers.routine:
            lane.observers.notify_routine(Promoted(lane.queue, result.moved))
        if result.dead:
            text = f"{result.dead} delayed messages were unreadable and are dead letters now (malformed)"
            lane.observers.notify(Noticed(lane.queue, text))
        if result.moved + result.dead >= PAGE:
            return 0.0
        if result.next_due_ms is None:
            return LONGEST_PAUSE
        return min(LONGEST_PAUSE, max(0.005, (result.next_due_ms - result.now_ms) / 1000))
