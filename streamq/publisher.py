"""Publishing: build, sign, offer. What is published in one turn of the loop to one queue goes out as one call."""

import asyncio
import socket
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from streamq.core import codec
from streamq.core.clock import Clock, SystemClock
from streamq.core.config import HARD_MAX_SIZE, Config, Durability, QueueConfig
from streamq.core.errors import ConfigError, DurabilityUnconfirmed, InvalidMessage, MessageTooLarge, QueueFull
from streamq.core.events import Observers
from streamq.core.message import PRIORITY_OF, Draft, Metadata, check_message_id, new_message_id
from streamq.core.options import Options, as_delta, check_options, in_seconds
from streamq.core.receipt import Receipt
from streamq.core.signing import KeyRing, SigningKey, resolve_signing
from streamq.outbox import Outbox
from streamq.store.connection import Connections
from streamq.store.keys import Keyspace
from streamq.store.streams import QueueStore


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
        self._outboxes: dict[tuple[str, Durability | None], Outbox] = {}

    async def publish(self, queue: str, payload: bytes, options: Options) -> Receipt:
        """Publish one message.

        Args:
            queue: where to.
            payload: JSON bytes of an object with a ``type``.
            options: what else there is to say.

        Raises:
            InvalidMessage, MessageTooLarge, QueueFull, PublishUnknown, DurabilityUnconfirmed, RedisUnavailable.
        """
        draft = self.draft(self._outbox(queue).config, payload, options)
        return await self._outbox(queue, options.durable).offer(draft, own_id=options.message_id is None)

    async def publish_many(self, queue: str, payloads: Sequence[bytes], options: Options) -> list[Receipt]:
        """Publish messages that share their options, in as few calls as possible.

        Raises:
            QueueFull: some did not fit; its ``receipts`` tell which did.
            DurabilityUnconfirmed: some were accepted, but may not survive; its ``ids`` tell which, and its ``receipts``
                what was accepted. Some of the others may not have fitted.
            InvalidMessage, MessageTooLarge: one is unusable, or the options name one id for all; none was published.
            PublishUnknown, RedisUnavailable: of the first that met it.
        """
        if options.message_id is not None or options.idempotency_key is not None:
            raise InvalidMessage("many messages cannot share a message_id or an idempotency_key: all but one would go")
        config = self._outbox(queue).config
        drafts = [self.draft(config, payload, options) for payload in payloads]
        outbox = self._outbox(queue, options.durable)
        offers = (outbox.offer(draft, own_id=True) for draft in drafts)
        return _together(await asyncio.gather(*offers, return_exceptions=True))

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
        # Less than a millisecond is no delay: whoever is not delayed by Redis must not wait for our clock.
        delay_until = options.delay_until or (created + timedelta(seconds=delay) if round(delay * 1000) else None)
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

    def _outbox(self, queue: str, durable: Durability | None = None) -> Outbox:
        outbox = self._outboxes.get((queue, durable))
        if outbox is None:
            config = self._config.queue(queue)
            wanted = durable or config.durable
            if wanted == durable:
                store = QueueStore(self._connections, self._keyspace, queue, config.consumer_group)
                outbox = Outbox(store, config, self._config, self._observers, wanted)
            else:  # what the queue says by itself goes with what asks for the same
                outbox = self._outbox(queue, wanted)
            self._outboxes[queue, durable] = outbox
        return outbox


def _together(results: Sequence[Receipt | BaseException]) -> list[Receipt]:
    """The receipts of many messages; where some are missing, one error for all that tells which are there."""
    receipts: list[Receipt | None] = []
    full: list[QueueFull] = []
    unconfirmed: list[DurabilityUnconfirmed] = []
    for result in results:
        match result:
            case Receipt():
                receipts.append(result)
            case DurabilityUnconfirmed():
                unconfirmed.append(result)
                receipts += result.receipts
            case QueueFull():
                full.append(result)
                receipts.append(None)
            case _:
                raise result
    if unconfirmed:
        ids = tuple(error.id for error in unconfirmed)
        raise DurabilityUnconfirmed(ids[0], unconfirmed[0].reason, ids=ids, receipts=tuple(receipts))
    if full:
        raise QueueFull(f"{len(full)} of {len(results)} messages were not accepted: {full[0]}", tuple(receipts))
    return [receipt for receipt in receipts if receipt is not None]
