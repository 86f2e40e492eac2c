"""Publishing: build, sign, offer. What is published in one turn of the loop to one queue goes out as one call."""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from streamq.core import codec
from streamq.core.backoff import reconnect_delay
from streamq.core.clock import Clock, SystemClock
from streamq.core.config import HARD_MAX_SIZE, Config, QueueConfig
from streamq.core.errors import (
    ConfigError,
    InvalidMessage,
    MessageTooLarge,
    PublishUnknown,
    QueueFull,
    RedisUnavailable,
)
from streamq.core.events import Noticed, Observers, Published
from streamq.core.message import PRIORITY_OF, Draft, Metadata, check_message_id, new_message_id
from streamq.core.options import Options, as_delta, check_options, in_seconds
from streamq.core.receipt import Receipt
from streamq.core.signing import KeyRing, SigningKey, resolve_signing
from streamq.store.connection import Connections, OutOfMemory, RedisRefused
from streamq.store.keys import Keyspace
from streamq.store.streams import QueueStore

BATCH_ITEMS, BATCH_BYTES = 500, 1024 * 1024  # a call, so that no script blocks Redis for long
REGISTER_EVERY = 60.0  # seconds: a failover or a flush may have lost the queue's name
FULL_PAUSE = 0.1  # seconds between two tries of `on_full: block`


class Publisher:
    """Puts messages into queues.

    Args:
        connections: how to reach Redis.
        keyspace: how keys are spelled.
        config: the queues.
        keys: the signing keys.
        observers: who is told.
        clock: this machine's.
        production: an unsigned queue must say so itself.
    """

    def __init__(
        self, connections: Connections, keyspace: Keyspace, config: Config, keys: KeyRing, *,
        observers: Observers | None = None, clock: Clock | None = None, production: bool = False,
    ) -> None:  # fmt: skip
        self._connections, self._keyspace, self._config, self._keys = connections, keyspace, config, keys
        self._observers = observers or Observers()
        self._clock = clock or SystemClock()
        self._production = production
        self._created_by = socket.gethostname()
        self._outboxes: dict[str, _Outbox] = {}

    async def publish(self, queue: str, payload: bytes, options: Options) -> Receipt:
        """Publish one message.

        Args:
            queue: where to.
            payload: JSON bytes of an object with a ``type``.
            options: what else there is to say.

        Raises:
            InvalidMessage, MessageTooLarge, QueueFull, PublishUnknown, RedisUnavailable.
        """
        outbox = self._outbox(queue)
        return await outbox.offer(self.draft(outbox.config, payload, options), own_id=options.message_id is None)

    async def publish_many(self, queue: str, payloads: Sequence[bytes], options: Options) -> list[Receipt]:
        """Publish messages that share their options, in as few calls as possible.

        Raises:
            QueueFull: some did not fit; its ``receipts`` tell which did.
            InvalidMessage, MessageTooLarge: one is unusable, or the options name one id for all; none was published.
            PublishUnknown, RedisUnavailable: of the first that met it.
        """
        if options.message_id is not None or options.idempotency_key is not None:
            raise InvalidMessage("many messages cannot share a message_id or an idempotency_key: all but one would go")
        outbox = self._outbox(queue)
        drafts = [self.draft(outbox.config, payload, options) for payload in payloads]
        offers = (outbox.offer(draft, own_id=True) for draft in drafts)
        results = await asyncio.gather(*offers, return_exceptions=True)
        full = [result for result in results if isinstance(result, QueueFull)]
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, QueueFull):
                raise result
        receipts = [result for result in results if isinstance(result, Receipt)]
        if full:
            kept = tuple(result if isinstance(result, Receipt) else None for result in results)
            raise QueueFull(f"{len(full)} of {len(drafts)} messages were not accepted: {full[0]}", kept)
        return receipts

    def draft(self, config: QueueConfig, payload: bytes, options: Options) -> Draft:
        """Build and sign a message. Pure: nothing is sent.

        Raises:
            InvalidMessage: an option is unusable.
            MessageTooLarge: the entry has more bytes than the queue takes.
            ConfigError: the queue takes signed messages only, and no active key covers it.
        """
        check_options(options)
        now = self._clock.time()
        own_id = options.message_id
        message_id = new_message_id(round(now * 1000)) if own_id is None else check_message_id(own_id)
        delay = in_seconds(options.delay) or 0.0
        fields = {
            b"id": message_id.encode(),
            b"queue": config.name.encode(),
            b"priority": PRIORITY_OF[options.priority],
            b"payload": payload,
            b"metadata": codec.encode_metadata(self._metadata(options, now, delay)),
        }
        key = self._signer(config)
        if key is not None:
            fields[b"signature"] = key.signature(config.name, fields)
        flat = [part for pair in fields.items() for part in pair]
        due_ms = round(options.delay_until.timestamp() * 1000) if options.delay_until is not None else 0
        draft = Draft(message_id, options.priority, flat, round(delay * 1000), due_ms, options.idempotency_key)
        limit = min(config.max_size, HARD_MAX_SIZE)
        if draft.size > limit:
            raise MessageTooLarge(
                f"a message of {draft.size} bytes for {config.name}, which takes at most {limit} (max_size); "
                f"store the data elsewhere and send a reference"
            )
        return draft

    def _signer(self, config: QueueConfig) -> SigningKey | None:
        key = self._keys.signer(config.name)
        if key is None and resolve_signing(config, self._keys, production=self._production) == "required":
            raise ConfigError(
                f"{config.name} takes signed messages only, and no active key covers it: every worker would refuse "
                f"this one. Give this process an active key in STREAMQ_SIGNING_KEYS"
            )
        return key

    def _metadata(self, options: Options, now: float, delay: float) -> Metadata:
        created = datetime.fromtimestamp(now, UTC)
        delay_until = options.delay_until or (created + timedelta(seconds=delay) if delay else None)
        expires = options.expires
        expires_at = expires if isinstance(expires, datetime) or expires is None else created + as_delta(expires)
        timeout = in_seconds(options.timeout)
        return Metadata(
            created_at=created,
            created_by=options.created_by or self._created_by,
            correlation_id=options.correlation_id,
            max_retries=options.max_retries,
            delay_until=delay_until,
            timeout=None if timeout is None else round(timeout * 1000),
            expires_at=expires_at,
            headers=dict(options.headers) if options.headers else None,
        )

    def _outbox(self, queue: str) -> "_Outbox":
        outbox = self._outboxes.get(queue)
        if outbox is None:
            config = self._config.queue(queue)
            store = QueueStore(self._connections, self._keyspace, queue, config.consumer_group)
            outbox = self._outboxes[queue] = _Outbox(store, config, self._config, self._observers)
        return outbox


class _Outbox:
    """What goes to one queue: offers of one turn of the loop become one call."""

    def __init__(self, store: QueueStore, config: QueueConfig, whole: Config, observers: Observers) -> None:
        self.config = config
        self._store, self._observers = store, observers
        self._window_ms = round(whole.worker.seen_window * 1000)
        self._once_ms = round(whole.worker.idempotency_window * 1000)
        self._waiting: list[tuple[Draft, asyncio.Future[str]]] = []
        self._sender: asyncio.Task[None] | None = None
        self._registered_at = float("-inf")  # monotonic

    async def offer(self, draft: Draft, *, own_id: bool) -> Receipt:
        """Offer a message until it is known what became of it."""
        patience = time.monotonic() + (self.config.block_timeout if self.config.on_full == "block" else 0.0)
        # Within half of the window an id is surely remembered, so that a repetition adds nothing.
        give_up = time.monotonic() + self._window_ms / 2000
        unknown = 0
        while True:
            try:
                word = await self._send(draft)
            except RedisUnavailable as error:
                refused = isinstance(error, OutOfMemory | RedisRefused)
                if refused and not unknown:
                    if isinstance(error, RedisRefused):
                        raise
                    word = "OOM"
                elif refused or time.monotonic() > give_up:
                    raise PublishUnknown(draft.id, str(error)) from error
                else:
                    unknown += 1  # from now on a try whose reply was lost may have been accepted
                    await asyncio.sleep(reconnect_delay(unknown))
                    continue
            if word == "OK" or (word == "DUP" and own_id and unknown):
                return Receipt(draft.id, self.config.name)
            if word == "DUP":
                return Receipt(draft.id, self.config.name, duplicate=True)
            if word.startswith("IDEM "):
                return Receipt(word[5:], self.config.name, duplicate=True)
            if word.startswith("ERR "):
                raise RedisUnavailable(word[4:])
            await self._wait_for_room(word, patience)

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

    async def _send(self, draft: Draft) -> str:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str] = loop.create_future()
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

    def _next_batch(self) -> list[tuple[Draft, asyncio.Future[str]]]:
        size = count = 0
        for draft, _ in self._waiting[:BATCH_ITEMS]:
            size += draft.size
            if count and size > BATCH_BYTES:
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    async def _publish(self, drafts: Sequence[Draft]) -> list[str]:
        words = await self._offer_once(drafts)
        while self.config.on_full == "drop_oldest" and "FULL" in words:
            refused = [number for number, word in enumerate(words) if word == "FULL"]
            wanted = Counter(drafts[number].level for number in refused)
            limit = self.config.max_length
            room = [await self._store.evict(level, max_length=limit, wanted=n) for level, n in wanted.items()]
            if any(room):
                gone = sum(n for n in room if n > 0)  # -1: there was room already
                text = f"full: {gone} undelivered messages went to make room (on_full: drop_oldest)"
                self._observers.notify(Noticed(self.config.name, text))
            again = await self._offer_once([drafts[number] for number in refused])
            for number, word in zip(refused, again, strict=True):
                words[number] = word
            # Others publish, too: room that they made, or took, is a reason to go on. Nothing that may go is not.
            if not any(room) and "OK" not in again:
                break
        return words

    async def _offer_once(self, drafts: Sequence[Draft]) -> list[str]:
        return await self._store.publish(
            drafts, window_ms=self._window_ms, max_length=self.config.max_length, once_ms=self._once_ms
        )

    async def _send_batch(self, batch: Sequence[tuple[Draft, asyncio.Future[str]]]) -> None:
        answers = [answer for _, answer in batch]
        try:
            if time.monotonic() - self._registered_at > REGISTER_EVERY:
                await self._store.register()
                self._registered_at = time.monotonic()
            words = await self._publish([draft for draft, _ in batch])
        except BaseException as error:
            for answer in answers:
                if not answer.done():
                    answer.set_exception(error)
            if not isinstance(error, Exception):  # a bug is told to whoever waits; those behind them wait no longer
                raise
            return
        for answer, word in zip(answers, words, strict=True):
            if not answer.done():  # whoever waited for it may have been cancelled
                answer.set_result(word)
        if self._observers.routine:
            accepted = words.count("OK")
            duplicates = sum(word == "DUP" or word.startswith("IDEM ") for word in words)
            refused = len(words) - accepted - duplicates
            self._observers.notify_routine(Published(self.config.name, accepted, duplicates, refused))
