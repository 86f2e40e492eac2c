"""Settle: outcomes -> Redis, those of one turn of the loop together.

A slot stays taken until Redis has the outcome: when Redis is away, nothing more is started than can be remembered.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from streamq.core.events import Settled
from streamq.core.message import Delivery
from streamq.core.outcome import Ack, DeadLetter, Outcome, Release, Retry
from streamq.runtime.lane import Lane

BATCH = 500  # acknowledgements a call
HEAVY_BATCH = 50  # entries a call of those that are copied


class Verdict(NamedTuple):
    """An outcome on its way.

    Attributes:
        delivery: what was judged.
        outcome: what becomes of it.
        type: of the message, where it is known.
        duration: seconds in the handler.
    """

    delivery: Delivery
    outcome: Outcome
    type: str | None = None
    duration: float = 0.0


class Settler:
    """Applies the outcomes of one queue.

    Args:
        lane: the queue.
        settled: told of each delivery whose outcome Redis has.
    """

    def __init__(self, lane: Lane, settled: Callable[[Delivery], None]) -> None:
        self._lane = lane
        self._settled = settled
        self._due: list[Verdict] = []
        self._wake = asyncio.Event()
        self._open = 0  # outcomes that Redis does not have yet
        self._all_known = asyncio.Event()

    def put(self, verdict: Verdict) -> None:
        """Hand over an outcome; it goes out with the others of this turn of the loop."""
        verdict.delivery.settling = True
        self._due.append(verdict)
        self._open += 1
        self._wake.set()

    async def empty(self) -> None:
        """Wait until Redis has every outcome: also of deliveries that never had a slot."""
        while self._open:
            self._all_known.clear()
            await self._all_known.wait()

    async def run(self) -> None:
        """Settle until cancelled: the settler outlives every role that feeds it."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.settle()

    async def settle(self) -> None:
        """Send what is due."""
        while self._due:
            due, self._due = self._due, []
            await self._send(due, lambda o: isinstance(o, Ack) and not o.dropped, self._ack, BATCH)
            await self._send(due, lambda o: isinstance(o, Ack) and o.dropped, self._drop, BATCH)
            await self._send(due, lambda o: isinstance(o, Retry), self._retry, HEAVY_BATCH)
            await self._send(due, lambda o: isinstance(o, DeadLetter), self._dead, HEAVY_BATCH)
            await self._send(due, lambda o: isinstance(o, Release), self._release, HEAVY_BATCH)

    async def _send(
        self, due: list[Verdict], wanted: Callable[[Outcome], bool],
        write: Callable[[Sequence[Verdict]], Awaitable[Sequence[str]]], size: int,
    ) -> None:  # fmt: skip
        chosen = [verdict for verdict in due if wanted(verdict.outcome)]
        for start in range(0, len(chosen), size):
            batch = chosen[start : start + size]

            async def send(batch: Sequence[Verdict] = batch) -> Sequence[str]:
                return await write(batch)

            def worthwhile(batch: Sequence[Verdict] = batch) -> bool:
                # A success is worth telling whoever owns the entry now; the rest only while it is ours.
                return any(isinstance(v.outcome, Ack) or not v.delivery.lost for v in batch)

            words = await self._lane.supervisor.insist("settle", send, worthwhile)
            self._done(batch, words)

    async def _ack(self, batch: Sequence[Verdict]) -> Sequence[str]:
        await self._lane.store.ack([v.delivery.key for v in batch])
        return ()

    async def _drop(self, batch: Sequence[Verdict]) -> Sequence[str]:
        await self._lane.store.ack([v.delivery.key for v in batch], "dropped")
        return ()

    async def _retry(self, batch: Sequence[Verdict]) -> Sequence[str]:
        return await self._lane.store.retry(self._lane.consumer, _items(batch))

    async def _dead(self, batch: Sequence[Verdict]) -> Sequence[str]:
        return await self._lane.store.dead(self._lane.consumer, _items(batch))

    async def _release(self, batch: Sequence[Verdict]) -> Sequence[str]:
        return await self._lane.store.release(self._lane.consumer, [v.delivery for v in batch])

    def _done(self, batch: Sequence[Verdict], words: Sequence[str] | None) -> None:
        observers = self._lane.observers
        self._open -= len(batch)
        self._all_known.set()
        for number, verdict in enumerate(batch):
            delivery, outcome = verdict.delivery, verdict.outcome
            self._settled(delivery)
            routine = type(outcome) is Ack and not outcome.dropped
            if routine and not observers.routine:
                continue
            applied = words is not None and (not words or words[number] == "OK")
            event = Settled(
                self._lane.queue, delivery.message_id, verdict.type, outcome, verdict.duration, applied
            )  # fmt: skip
            (observers.notify_routine if routine else observers.notify)(event)


def _items(batch: Sequence[Verdict]) -> list[tuple[Delivery, Any]]:
    return [(verdict.delivery, verdict.outcome) for verdict in batch]
