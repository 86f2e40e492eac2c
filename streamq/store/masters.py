"""Sentinel: who the master is, asked again and again in a thread of its own.

redis-py asks only when it connects. A master that was frozen, replaced and thawed goes on taking writes until the
sentinels reach it (10 s on Redis 7.0): whoever is connected to it has to find out without its help, and also while the
event loop is blocked.
"""

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import redis
from redis import exceptions
from redis.retry import Retry

from streamq.store.clients import ask_sentinels

ASK_EVERY = 1.5  # seconds

Address = tuple[str, int]
Follow = Callable[[], Coroutine[Any, Any, None]]


class MasterWatch:
    """Asks the sentinels for the master until it is stopped.

    Args:
        sentinels: host and port of each.
        service: the master's name.
        follow: called on the event loop after each time that somebody knew where the master is; None where nobody
            waits: who looks at ``master`` before each command needs no call, and no loop.

    Attributes:
        master: where it is, as far as known; for any thread.
    """

    def __init__(self, sentinels: Sequence[Address], service: str, follow: Follow | None = None) -> None:
        self.master: Address | None = None
        self._service, self._follow = service, follow
        self._sentinels: list[Any] = [redis.Redis(host, port, **ask_sentinels(Retry)) for host, port in sentinels]
        self._stopping = threading.Event()  # of the present thread
        self._thread: threading.Thread | None = None
        self._following: concurrent.futures.Future[None] | None = None

    def start(self) -> None:
        """Begin to ask, on behalf of the running event loop if there is somebody to call. Twice is once."""
        if self._thread is None:
            self._stopping = threading.Event()
            loop = None if self._follow is None else asyncio.get_running_loop()
            arguments = (loop, self._stopping)
            self._thread = threading.Thread(target=self._run, args=arguments, name="streamq-sentinel", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Ask no more. Blocks until the thread has ended."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stopping.set()
            thread.join()

    def has_replaced(self, address: Any) -> bool:
        """Whether who is connected there is connected to a master that was replaced. For any thread."""
        master = self.master
        return master is not None and address not in {None, master}

    def ask(self) -> Address | None:
        """Where the master is, as the sentinel says that saw the latest failover. For any thread.

        Returns:
            Its address; None when no sentinel knows a good one.
        """
        known = []
        for sentinel in self._sentinels:
            # One that is away, that is no sentinel at all, or that answers strangely.
            with contextlib.suppress(exceptions.RedisError, OSError, LookupError, ValueError):
                state = sentinel.sentinel_masters().get(self._service)
                if state and state["is_master"] and not (state["is_sdown"] or state["is_odown"]):
                    known.append((int(state["config-epoch"]), (str(state["ip"]), int(state["port"]))))
        return max(known)[1] if known else None

    def _run(self, loop: asyncio.AbstractEventLoop | None, stopping: threading.Event) -> None:
        while not (stopping.is_set() or (loop is not None and loop.is_closed())):
            master = self.ask()
            if master is not None:
                self.master = master
                self._tell(loop)
            stopping.wait(ASK_EVERY)
        for sentinel in self._sentinels:
            sentinel.close()

    def _tell(self, loop: asyncio.AbstractEventLoop | None) -> None:
        if loop is None or self._follow is None:
            return
        if self._following is not None and not self._following.done():
            return  # the loop is blocked: one call that waits for it is enough
        call = self._follow()
        try:
            self._following = asyncio.run_coroutine_threadsafe(call, loop)
        except RuntimeError:  # the loop is closed: there is nobody left to tell
            call.close()
