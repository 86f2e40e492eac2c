"""The way of offers to one queue: call by call, until the fate of each is known."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence

from streamq.core.config import Config, Durability, QueueConfig
from streamq.core.errors import RedisUnavailable
from streamq.core.events import Noticed, Observers, Published
from streamq.core.message import Draft
from streamq.offer import Offer
from streamq.store.streams import QueueStore

CALL_ITEMS, CALL_BYTES = 500, 1024 * 1024  # a call, so that no script blocks Redis for long
REGISTER_EVERY = 60.0  # seconds: a failover or a flush may have lost the queue's name


class Courier:
    """Brings offers to one queue.

    How it waits is for those who derive from it to say: on an event loop, or by blocking its thread. In the second case
    many threads may use it at once.

    Args:
        store: the queue.
        config: what it is told.
        whole: the configuration around it.
        observers: who is told.
        durable: what each call waits for.
    """

    def __init__(
        self, store: QueueStore, config: QueueConfig, whole: Config, observers: Observers, durable: Durability
    ) -> None:
        self.config, self._durable = config, durable
        self._store, self._observers = store, observers
        self._window = whole.worker.seen_window
        # A key that is forgotten while its message may still come back would let a second one in beside it.
        self._once = max(whole.worker.idempotency_window, config.horizon())
        self._registered_at = float("-inf")  # monotonic

    def offer(self, draft: Draft, *, own_id: bool = True) -> Offer:
        """What stands for a message from now on; see ``Offer``."""
        return Offer(draft, self.config, self._window, own_id=own_id)

    async def bring_one(self, offer: Offer) -> None:
        """Offer a message until its fate is known."""
        while offer.fate is None:
            try:
                word, doubt = await self._send(offer.draft)
            except RedisUnavailable as error:
                offer.failed(error)
            else:
                offer.answered(word, doubt)
            if offer.fate is None:
                await self._sleep(offer.pause)

    async def bring(self, offers: Sequence[Offer]) -> None:
        """Offer messages until the fate of each is known."""
        while offers:
            waiting = list(offers)
            while waiting:
                count = fitting(offer.draft for offer in waiting)
                batch, waiting = waiting[:count], waiting[count:]
                await self._bring_once(batch)
            offers = [offer for offer in offers if offer.fate is None]
            if offers:  # what keeps the first waiting keeps them all
                await self._sleep(offers[0].pause)

    async def _bring_once(self, offers: Sequence[Offer]) -> None:
        try:
            words, doubt = await self.call([offer.draft for offer in offers])
        except RedisUnavailable as error:
            for offer in offers:
                offer.failed(error)
        else:
            for offer, word in zip(offers, words, strict=True):
                offer.answered(word, doubt)

    async def call(self, drafts: Sequence[Draft]) -> tuple[list[str], str]:
        """Offer messages once.

        Args:
            drafts: no more than are ``fitting``.

        Returns:
            A word of the script for each, and why those that are there may not survive: "" when they do.

        Raises:
            RedisUnavailable: nobody knows what became of them.
        """
        if time.monotonic() - self._registered_at > REGISTER_EVERY:
            await self._store.register()
            self._registered_at = time.monotonic()
        words, doubt = await self._publish(drafts)
        if self._observers.routine:
            accepted = words.count("OK")
            duplicates = sum(word == "DUP" or word.startswith("IDEM ") for word in words)
            refused = len(words) - accepted - duplicates
            self._observers.notify_routine(Published(self.config.name, accepted, duplicates, refused))
        return words, doubt

    async def _sleep(self, seconds: float) -> None:
        raise NotImplementedError

    async def _send(self, draft: Draft) -> tuple[str, str]:
        (word,), doubt = await self.call([draft])
        return word, doubt

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
        window, most, once = round(self._window * 1000), self.config.max_length, round(self._once * 1000)
        if self._durable == "memory":
            return await self._store.publish(drafts, window_ms=window, max_length=most, once_ms=once), ""
        return await self._store.publish_durably(drafts, self._durable, window_ms=window, max_length=most, once_ms=once)


def fitting(drafts: Iterable[Draft]) -> int:
    """How many of these, from the first on, go with one call: one at least."""
    size = count = 0
    for draft in drafts:
        size += draft.size
        if count == CALL_ITEMS or (count and size > CALL_BYTES):
            break
        count += 1
    return count
