"""Where handlers run that are not coroutines: threads for what waits, child processes for what computes or may die."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from streamq.runtime.child import packed, run_functions
from streamq.runtime.children import Child

IDLE = 300.0  # seconds for which a child is kept for the next handler


class Executors:
    """The threads and child processes of one worker.

    Args:
        most: threads at once. There are never more children that run something than slots.

    Attributes:
        apps: children in which the app is started for a suspect.
    """

    def __init__(self, most: int) -> None:
        self.apps = 0
        self._most = most
        self._threads: ThreadPoolExecutor | None = None
        self._busy: set[Future[Any]] = set()
        self._idle: dict[Child, asyncio.TimerHandle] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    @property
    def busy_threads(self) -> int:
        """How many threads run a handler, whether anybody still waits for it or not."""
        return len(self._busy)

    @property
    def leaving(self) -> int:
        """How many children were let go and have yet to end."""
        return len(self._leaving)

    async def thread(self, function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """Run a function in a thread. It cannot be stopped: cancelled or not, this returns when it ends."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._most, thread_name_prefix="streamq")
        future = self._threads.submit(contextvars.copy_context().run, _in_thread, function, arguments)
        # The thread's own future: the loop's is done as soon as nobody waits any more.
        self._busy.add(future)
        future.add_done_callback(self._busy.discard)
        return await asyncio.wrap_future(future)

    async def process(self, function: Callable[..., Any], payload: bytes, *, fresh: bool = False) -> None:
        """Run a function in a child process. Cancelling kills the child.

        Args:
            function: found by its name.
            payload: the JSON bytes that hold its arguments.
            fresh: in a child that has run nothing else, and will not.

        Raises:
            NoChild: there is no child to run it.
            WorkerDied: the child died.
            whatever the function raised.
        """
        job = packed(function, payload)
        child = (None if fresh else self._kept()) or await Child.start(run_functions)
        try:
            await child.ask(job)
        finally:
            if child.is_alive and not fresh:
                self._keep(child)
            else:
                self.let_go(child)

    def let_go(self, child: Child, patience: float = 0.0) -> None:
        """Let a child end, and wait no longer than so many seconds for that."""
        task = asyncio.ensure_future(child.end(patience))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def aclose(self) -> None:
        """Take no more; threads that still run are left to end by themselves."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        for child in list(self._idle):
            self._retire(child)
        await asyncio.gather(*self._leaving)

    def _kept(self) -> Child | None:
        while self._idle:
            child, timer = self._idle.popitem()
            timer.cancel()
            if child.is_alive:
                return child
            self.let_go(child)
        return None

    def _keep(self, child: Child) -> None:
        self._idle[child] = asyncio.get_running_loop().call_later(IDLE, self._retire, child)

    def _retire(self, child: Child) -> None:
        self._idle.pop(child).cancel()
        self.let_go(child)


def _in_thread(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    try:
        return function(**arguments)
    except StopIteration as error:  # no future can carry it: whoever waits would wait for ever
        raise RuntimeError("the handler raised StopIteration") from error
