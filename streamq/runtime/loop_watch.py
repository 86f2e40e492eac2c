"""Watch the event loop from a thread of its own: while something blocks it, nothing that runs on it can say so."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

LOOK = 1.0  # seconds between two looks: a loop that is blocked for two of them is told of


class LoopWatch:
    """Asks the running event loop for a sign of life, for the time of a block, and tells what runs when none comes.

    Args:
        blocked: called on the thread, once each time that the loop is blocked, with the task it is busy with; None =
            with a callback.
    """

    def __init__(self, blocked: Callable[[asyncio.Task[Any] | None], None]) -> None:
        self._blocked = blocked
        self._loop = asyncio.get_running_loop()
        self._answered, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="streamq-loop-watch", daemon=True)

    def __enter__(self) -> Self:
        self._answered.set()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()

    def _run(self) -> None:
        missed = 0
        with contextlib.suppress(RuntimeError):  # the loop is closed: there is nothing to watch
            while not self._stop.wait(LOOK):
                if self._answered.is_set():
                    missed = 0
                    self._answered.clear()
                    self._loop.call_soon_threadsafe(self._answered.set)
                    continue
                missed += 1
                # One miss proves nothing: a process that was stopped wakes with both of its threads at once.
                if missed == 2:
                    self._blocked(asyncio.current_task(self._loop))
