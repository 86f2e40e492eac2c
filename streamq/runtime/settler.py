"""Settle: outcomes -> Redis, those of one turn of the loop together.

A slot stays taken until Redis has the outcome: when Redis is away, nothing more is started than can be remembered.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import anyio

from streamq.core.events import Settled, Vanished
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
    """Applies the outcomes of one queue. Each kind goes its own way: what Redis refuses must not hold up the rest.

    Args:
        lane: the queue.
        settled: told of each delivery whose outcome Redis has.
    """

    def __init__(self, lane: Lane, settled: Callable[[Delivery], None]) -> None:
        self._lane = lane
        self._settled = settled
        self._open = 0  # outcomes that Redis does not have yet
        self._all_known = asyncio.Event()
        self._acks = _Sender(lane, self._ack, BATCH, self._done)
        self._drops = _Sender(lane, self._drop, BATCH, self._done)
        self._senders = {
            Retry: _Sender(lane, self._retry, HEAVY_BATCH, self._done),
            DeadLetter: _Sender(lane, self._dead, HEAVY_BATCH, self._done),
            Release: _Sender(lane, self._release, HEAVY_BATCH, self._done),
        }

    def put(self, verdict: Verdict) -> None:
        """Hand over an outcome; it goes out with the others of its kind of this turn of the loop."""
        verdict.delivery.settling = True
        self._open += 1
        outcome = verdict.outcome
        if isinstance(outcome, Ack):
            (self._drops if outcome.dropped else self._acks).put(verdict)
        else:
            self._senders[type(outcome)].put(verdict)

    async def empty(self) -> None:
        """Wait until Redis has every outcome: also of deliveries that never had a slot."""
        while self._open:
            self._all_known.clear()
            await self._all_known.wait()

    async def run(self) -> None:
        """Settle until cancelled: the settler outlives every role that feeds it."""
        async with anyio.create_task_group() as group:
            for sender in (self._acks, self._drops, *self._senders.values()):
                group.start_soon(sender.run)

    async def settle(self) -> None:
        """Send what is due, once."""
        for sender in (self._acks, self._drops, *self._senders.values()):
            await sender.send()

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
            word = words[number] if words else "OK"
            if word == "VANISHED":
                observers.notify(Vanished(self._lane.queue, 1))
            applied = words is not None and word == "OK"
            event = Settled(
                self._lane.queue, delivery.message_id, verdict.type, outcome, verdict.duration, applied
            )  # fmt: skip
            (observers.notify_routine if routine else observers.notify)(event)


Write = Callable[[Sequence[Verdict]], Awaitable[Sequence[str]]]


class _Sender:
    """Outcomes of one kind, on their way to Redis in batches."""

    def __init__(
        self, lane: Lane, write: Write, size: int, done: Callable[[Sequence[Verdict], Sequence[str] | None], None]
    ) -> None:
        self._lane, self._write, self._size, self._done = lane, write, size, done
        self._due: list[Verdict] = []
        self._wake = asyncio.Event()

    def put(self, verdict: Verdict) -> None:
        self._due.append(verdict)
        self._wake.set()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.send()

    async def send(self) -> None:
        while self._due:
            batch, self._due = self._due[: self._size], self._due[self._size :]
            words = await self._lane.supervisor.insist(
                "settle", functools.partial(self._write, batch), functools.partial(_is_worthwhile, batch)
            )
            self._done(batch, words)


def _is_worthwhile(batch: Sequence[Verdict]) -> bool:
    """A success is worth telling whoever owns the entry now; the rest only while it is ours."""
    return any(isinstance(v.outcome, Ack) or not v.delivery.lost for v in batch)


def _items(batch: Sequence[Verdict]) -> list[tuple[Delivery, Any]]:
    return [(verdict.delivery, verdict.outcome) for verdict in batch]
