"""What waits to go to one queue: offers of one turn of the loop become one call."""

import asyncio
from typing import Any

from streamq.core.message import Draft
from streamq.courier import Courier, fitting

Waiting = tuple[Draft, "asyncio.Future[tuple[str, str]]"]


class Outbox(Courier):
    """A courier on an event loop that takes along what is offered one by one in the same turn.

    What waits longer for its call, for the disk say, has an outbox of its own, so that nobody else does.

    Args: as of ``Courier``.
    """

    def __init__(self, *about: Any) -> None:
        super().__init__(*about)
        self._waiting: list[Waiting] = []
        self._sender: asyncio.Task[None] | None = None

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _send(self, draft: Draft) -> tuple[str, str]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[tuple[str, str]] = loop.create_future()
        self._waiting.append((draft, answer))
        if self._sender is None:
            self._sender = loop.create_task(self._send_waiting())
        return await answer

    async def _send_waiting(self) -> None:
        try:
            while self._waiting:
                count = fitting(draft for draft, _ in self._waiting)
                batch, self._waiting = self._waiting[:count], self._waiting[count:]
                await self._send_batch(batch)
        finally:
            self._sender = None

    async def _send_batch(self, batch: list[Waiting]) -> None:
        try:
            words, doubt = await self.call([draft for draft, _ in batch])
        except BaseException as error:
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            if not isinstance(error, Exception):  # a bug is told to whoever waits; those behind them wait no longer
                raise
            return
        for (_, answer), word in zip(batch, words, strict=True):
            if not answer.done():  # whoever waited for it may have been cancelled
                answer.set_result((word, doubt))
