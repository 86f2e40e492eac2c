"""What waits to go to one queue: offers of one turn of the loop become one call, repeated until its fate is known."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

from streamq.core.backoff import reconnect_delay
from streamq.core.config import Config, Durability, QueueConfig
from streamq.core.errors import DurabilityUnconfirmed, PublishUnknown, QueueFull, RedisUnavailable
from streamq.core.events import Noticed, Observers, Published
from streamq.core.message import Draft
from streamq.core.receipt import Receipt
from streamq.store.outages import OutOfMemory, RedisRefused
from streamq.store.streams import QueueStore

BATCH_ITEMS, BATCH_BYTES = 500, 1024 * 1024  # a call, so that no script blocks Redis for long
REGISTER_EVERY = 60.0  # seconds: a failover or a flush may have lost the queue's name
FULL_PAUSE = 0.1  # seconds between two tries of `on_full: block`


class Outbox:
    """What goes to one queue: offers of one turn of the loop become one call.

    Args:
        store: the queue.
        config: what it is told.
        whole: the configuration around it.
        observers: who is told.
        durable: what each offer waits for. What waits longer has an outbox of its own, so that nobody else does.
    """

    def __init__(
        self, store: QueueStore, config: QueueConfig, whole: Config, observers: Observers, durable: Durability
    ) -> None:
        self.config, self._durable = config, durable
        self._store, self._observers = store, observers
        self._window_ms = round(whole.worker.seen_window * 1000)
        # A key that is forgotten while its message may still come back would let a second one in beside it.
        self._once_ms = round(max(whole.worker.idempotency_window, config.horizon()) * 1000)
        self._waiting: list[tuple[Draft, asyncio.Future[tuple[str, str]]]] = []
        self._sender: asyncio.Task[None] | None = None
        self._registered_at = float("-inf")  # monotonic

    async def offer(self, draft: Draft, *, own_id: bool) -> Receipt:
        """Offer a message until it is known what became of it.

        Args:
            draft: the message.
            own_id: its id was made here, so nobody else can have offered it.

        Raises:
            QueueFull, PublishUnknown, DurabilityUnconfirmed, RedisUnavailable.
        """
        patience = time.monotonic() + (self.config.block_timeout if self.config.on_full == "block" else 0.0)
        # Within half of the window an id is surely remembered, so that a repetition adds nothing.
        give_up = time.monotonic() + self._window_ms / 2000
        unknown = 0
        while True:
            try:
                word, doubt = await self._send(draft)
            except RedisUnavailable as error:
                refused = isinstance(error, OutOfMemory | RedisRefused)
                if refused and not unknown:
                    if isinstance(error, RedisRefused):
                        raise
                    word, doubt = "OOM", ""
                elif refused or time.monotonic() >= give_up:
                    raise PublishUnknown(draft.id, str(error)) from error
                else:
                    unknown += 1  # from now on a try whose reply was lost may have been accepted
                    # The last try comes in time: later the id may be forgotten, and it would be accepted once more.
                    await asyncio.sleep(min(reconnect_delay(unknown), max(0.0, give_up - time.monotonic())))
                    continue
            receipt = self._receipt(draft, word, ours=own_id and unknown > 0)
            if receipt is None:
                await self._wait_for_room(word, patience)
            elif doubt:
                raise DurabilityUnconfirmed(receipt.id, doubt, receipts=(receipt,))
            else:
                return receipt

    def _receipt(self, draft: Draft, word: str, *, ours: bool) -> Receipt | None:
        """What the word means; None when there was no room. A duplicate may be our own lost try."""
        if word == "OK" or (word == "DUP" and ours):
            return Receipt(draft.id, self.config.name)
        if word == "DUP":
            return Receipt(draft.id, self.config.name, duplicate=True)
        if word.startswith("IDEM "):
            return Receipt(word[5:], self.config.name, duplicate=True)
        if word.startswith("ERR "):
            raise RedisUnavailable(word[4:])
        return None

    async def _wait_for_room(self, word: str, patience: float) -> None:
        config = self.config
        if config.on_full == "block" and time.monotonic() < patience:
            await asyncio.sleep(min(FULL_PAUSE, max(0.0, patience - time.monotonic())))
            return
        if word == "OOM":
            raise QueueFull(f"Redis is out of memory; it did not accept a message for {config.name}")
        raise QueueFull(
            f"{config.name} holds {config.max_length} messages (max_length); add workers, raise max_length, or set "
            f"on_full: block"
        )

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
                batch = self._next_batch()
                await self._send_batch(batch)
        finally:
            self._sender = None

    def _next_batch(self) -> list[tuple[Draft, asyncio.Future[tuple[str, str]]]]:
        size = count = 0
        for draft, _ in self._waiting[:BATCH_ITEMS]:
            size += draft.size
            if count and size > BATCH_BYTES:
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    async def _publish(self, drafts: Sequence[Draft]) -> tuple[list[str], str]:
        words, doubt = await self._offer_once(drafts)
        while self.config.on_full == "drop_oldest" and "FULL" in words:
            refused = [number for number, word in enumerate(words) if word == "FULL"]
            wanted = Counter(drafts[number].level for number in refused)
            limit = self.config.max_length
            room = [await self._store.evict(level, max_length=limit, wanted=n) for level, n in wanted.items()]
            if any(room):
                gone = sum(n for n in room if n > 0)  # -1: there was room already
                text = f"full: {gone} undelivered messages went to make room (on_full: drop_oldest)"
                self._observers.notify(Noticed(self.config.name, text))
            again, more_doubt = await self._offer_once([drafts[number] for number in refused])
            doubt = doubt or more_doubt
            for number, word in zip(refused, again, strict=True):
                words[number] = word
            # Others publish, too: room that they made, or took, is a reason to go on. Nothing that may go is not.
            if not any(room) and "OK" not in again:
                break
        return words, doubt

    async def _offer_once(self, drafts: Sequence[Draft]) -> tuple[list[str], str]:
        window, most, once = self._window_ms, self.config.max_length, self._once_ms
        if self._durable == "memory":
            return await self._store.publish(drafts, window_ms=window, max_length=most, once_ms=once), ""
        return await self._store.publish_durably(drafts, self._durable, window_ms=window, max_length=most, once_ms=once)

    async def _send_batch(self, batch: Sequence[tuple[Draft, asyncio.Future[tuple[str, str]]]]) -> None:
        answers = [answer for _, answer in batch]
        try:
            if time.monotonic() - self._registered_at > REGISTER_EVERY:
                await self._store.register()
                self._registered_at = time.monotonic()
            words, doubt = await self._publish([draft for draft, _ in batch])
        except BaseException as error:
            for answer in answers:
                if not answer.done():
                    answer.set_exception(error)
            if not isinstance(error, Exception):  # a bug is told to whoever waits; those behind them wait no longer
                raise
            return
        for answer, word in zip(answers, words, strict=True):
            if not answer.done():  # whoever waited for it may have been cancelled
                answer.set_result((word, doubt))
        if self._observers.routine:
            accepted = words.count("OK")
            duplicates = sum(word == "DUP" or word.startswith("IDEM ") for word in words)
            refused = len(words) - accepted - duplicates
            self._observers.notify_routine(Published(self.config.name, accepted, duplicates, refused))
