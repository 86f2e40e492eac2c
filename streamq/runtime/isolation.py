"""Suspects run alone: while a message that may kill its worker runs, nothing else of this process is at stake."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Isolation:
    """A gate before every handler of this process. Open, it costs a comparison."""

    def __init__(self) -> None:
        self._running = 0
        self._open = asyncio.Event()
        self._open.set()
        self._idle = asyncio.Event()

    @property
    def taken(self) -> bool:
        """Whether a suspect runs alone, or waits for that."""
        return not self._open.is_set()

    def try_enter(self) -> bool:
        """Let a handler start at once, unless a suspect runs or waits to run. If so, ``leave`` must follow."""
        if self._open.is_set():
            self._running += 1
            return True
        return False

    async def enter(self) -> None:
        """Wait until no suspect runs or waits to run; then a handler may start. ``leave`` must follow."""
        while not self.try_enter():
            await self._open.wait()

    def leave(self) -> None:
        """A handler came to its end."""
        self._running -= 1
        if self._running == 0:
            self._idle.set()

    @contextlib.asynccontextmanager
    async def alone(self, patience: float | None) -> AsyncIterator[bool]:
        """Let nothing else start, and wait for what runs. One suspect at a time: ask ``taken`` first.

        Starts are held back, not only fetches: a fetch that is under way can still bring work, and an innocent that
        dies with a suspect would be taken for one.

        Args:
            patience: seconds to wait for running handlers; None = as long as it takes.

        Yields:
            Whether nothing else runs now.
        """
        self._open.clear()
        try:
            yield await self._become_idle(patience)
        finally:
            self._open.set()

    async def _become_idle(self, patience: float | None) -> bool:
        try:
            async with asyncio.timeout(patience):
                while self._running:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            return False
        return True
