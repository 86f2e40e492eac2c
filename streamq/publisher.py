"""Publishing: build, sign, offer. How it waits for Redis is its couriers' business."""

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
from streamq.courier import Courier
from streamq.offer import Offer
from streamq.outbox import Outbox
from streamq.store.calls import Calls
from streamq.store.keys import Keyspace
from streamq.store.streams import QueueStore


class Publisher:
    """Puts messages into queues.

    Args:
        calls: the way to Redis.
        keyspace: how keys are spelled.
        config: the queues.
        keys: the signing keys.
        observers: who is told.
        clock: this machine's.
        production: an unsigned queue must say so itself.
        courier: brings messages to one queue, by that way. Without an event loop it is another, as its ``calls`` are.
    """

    def __init__(
        self, calls: Calls, keyspace: Keyspace, config: Config, keys: KeyRing, *,
        observers: Observers | None = None, clock: Clock | None = None, production: bool = False,
        courier: type[Courier] = Outbox,
    ) -> None:  # fmt: skip
        self._calls, self._keyspace, self._config, self._keys = calls, keyspace, config, keys
        self._observers = observers or Observers()
        self._clock = clock or SystemClock()
        self._production = production
        self._created_by = socket.gethostname()
        self._courier = courier
        self._couriers: dict[tuple[str, Durability | None], Courier] = {}

    async def publish(self, queue: str, payload: bytes, options: Options) -> Receipt:
        """Publish one message.

        Args:
            queue: where to.
            payload: JSON bytes of an object with a ``type``.
            options: what else there is to say.

        Raises:
            InvalidMessage, MessageTooLarge, QueueFull, PublishUnknown, DurabilityUnconfirmed, RedisUnavailable.
        """
        draft = self.draft(self._courier_to(queue).config, payload, options)
        courier = self._courier_to(queue, options.durable)
        offer = courier.offer(draft, own_id=options.message_id is None)
        await courier.bring_one(offer)
        return offer.receipt()

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
        config = self._courier_to(queue).config
        drafts = [self.draft(config, payload, options) for payload in payloads]
        courier = self._courier_to(queue, options.durable)
        offers = [courier.offer(draft) for draft in drafts]
        await courier.bring(offers)
        return _together(offers)

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

    def _courier_to(self, queue: str, durable: Durability | None = None) -> Courier:
        courier = self._couriers.get((queue, durable))
        if courier is None:
            config = self._config.queue(queue)
            wanted = durable or config.durable
            if wanted == durable:
                store = QueueStore(self._calls, self._keyspace, queue, config.consumer_group)
                courier = self._courier(store, config, self._config, self._observers, wanted)
            else:  # what the queue says by itself goes with what asks for the same
                courier = self._courier_to(queue, wanted)
            self._couriers[queue, durable] = courier
        return courier


def _together(offers: Sequence[Offer]) -> list[Receipt]:
    """The receipts of many messages; where some are missing, one error for all that tells which are there."""
    receipts: list[Receipt | None] = []
    full: list[QueueFull] = []
    unconfirmed: list[DurabilityUnconfirmed] = []
    for offer in offers:
        match offer.fate:
            case DurabilityUnconfirmed() as error:
                unconfirmed.append(error)
                receipts += error.receipts
            case QueueFull() as error:
                full.append(error)
                receipts.append(None)
            case _:
                receipts.append(offer.receipt())
    if unconfirmed:
        ids = tuple(error.id for error in unconfirmed)
        raise DurabilityUnconfirmed(ids[0], unconfirmed[0].reason, ids=ids, receipts=tuple(receipts))
    if full:
        raise QueueFull(f"{len(full)} of {len(receipts)} messages were not accepted: {full[0]}", tuple(receipts))
    return [receipt for receipt in receipts if receipt is not None]
