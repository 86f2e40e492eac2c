"""Where handlers run that are not coroutines: threads for what waits, child processes for what computes or may die."""

import asyncio
import contextvars
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import anyio.to_process

from streamq.core.codec import bind
from streamq.core.policy import WorkerDied


class Executors:
    """The threads and child processes of one worker.

    Args:
        most: how many of each at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._threads: ThreadPoolExecutor | None = None
        self._children: anyio.CapacityLimiter | None = None
        self.busy_threads = 0

    async def thread(self, function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """Run a function in a thread. It cannot be stopped: cancelled or not, this returns when it ends."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._most, thread_name_prefix="streamq")
        call = functools.partial(contextvars.copy_context().run, functools.partial(function, **arguments))
        future = asyncio.get_running_loop().run_in_executor(self._threads, call)
        self.busy_threads += 1
        future.add_done_callback(self._thread_ended)
        return await future

    async def process(self, function: Callable[..., Any], payload: bytes) -> None:
        """Run a function in a child process. Cancelling kills the child.

        Raises:
            WorkerDied: the child died.
            whatever the function raised.
        """
        if self._children is None:
            self._children = anyio.CapacityLimiter(self._most)
        try:
            await anyio.to_process.run_sync(_in_child, function, payload, cancellable=True, limiter=self._children)
        except anyio.BrokenWorkerProcess as error:
            raise WorkerDied("the child process that ran the handler died") from error

    def close(self) -> None:
        """Take no more; threads that still run are left to end by themselves."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _thread_ended(self, future: asyncio.Future[Any]) -> None:
        self.busy_threads -= 1
        if not future.cancelled():
            future.exception()  # an abandoned handler's error has been judged already


def _in_child(function: Callable[..., Any], payload: bytes) -> None:
    # The payload is decoded here, from its JSON bytes: nothing but this process's own function reference and bytes
    # crosses the pipe.
    function(**bind(function).arguments(payload))
