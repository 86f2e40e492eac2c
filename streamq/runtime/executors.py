"""Where handlers run that are not coroutines: threads for what waits, child processes for what computes or may die."""

import asyncio
import contextvars
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
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
        self._busy: set[Future[Any]] = set()

    @property
    def busy_threads(self) -> int:
        """How many threads run a handler, whether anybody still waits for it or not."""
        return len(self._busy)

    async def thread(self, function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """Run a function in a thread. It cannot be stopped: cancelled or not, this returns when it ends."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._most, thread_name_prefix="streamq")
        future = self._threads.submit(contextvars.copy_context().run, _in_thread, function, arguments)
        # The thread's own future: the loop's is done as soon as nobody waits any more.
        self._busy.add(future)
        future.add_done_callback(self._busy.discard)
        return await asyncio.wrap_future(future)

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


def _in_thread(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    try:
        return function(**arguments)
    except StopIteration as error:  # no future can carry it: whoever waits would wait for ever
        raise RuntimeError("the handler raised StopIteration") from error


def _in_child(function: Callable[..., Any], payload: bytes) -> None:
    # Ctrl-C and a service manager's SIGTERM reach the whole process group. When a handler ends is the worker's
    # business: it lets it finish or kills it, and a child that died of such a signal would look like one that its
    # message killed.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _not_heard)
    # The payload is decoded here, from its JSON bytes: nothing but this process's own function reference and bytes
    # crosses the pipe.
    arguments = bind(function).arguments(payload)
    try:
        function(**arguments)
    except SystemExit as error:  # it would end this process, and the next handler that is sent here would die with it
        raise RuntimeError(f"the handler raised SystemExit: {error.code}") from error


def _not_heard(*_: object) -> None:
    """Unlike SIG_IGN, this is not inherited by programs that a handler starts."""
