"""Time limits: one timer for all runs of a queue, set to the nearest. One a message costs more than its handler may."""

import asyncio
import time
from collections.abc import Callable, Iterable

from streamq.runtime.run import Run

NEVER = float("inf")


class Deadlines:
    """Notices when a run is due.

    Args:
        runs: those that there are now.
        up: called with each whose time is up; it says by ``run.due`` when to be called again.
    """

    def __init__(self, runs: Callable[[], Iterable[Run]], up: Callable[[Run], None]) -> None:
        self._runs, self._up = runs, up
        self._timer: asyncio.TimerHandle | None = None
        self._nearest = NEVER  # monotonic: when the timer comes

    def watch(self, run: Run) -> None:
        """Notice when ``run.due`` has come."""
        if run.due < self._nearest:
            self._set(run.due)

    def rest(self) -> None:
        """Nothing runs: a timer would keep alive what is long done."""
        self._set(NEVER)

    def _set(self, nearest: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._nearest = nearest
        delay = max(0.0, nearest - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay, self._look) if nearest < NEVER else None

    def _look(self) -> None:
        now = time.monotonic()
        for run in list(self._runs()):
            if run.due <= now:
                self._up(run)
        self._set(min((run.due for run in self._runs()), default=NEVER))
