"""The one place that decides an outcome: ``admit`` before the handler, ``conclude`` after it. Pure."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from streamq.core import codec, errors
from streamq.core.backoff import retry_delay
from streamq.core.classify import ErrorClass, classify
from streamq.core.config import HARD_MAX_SIZE, ErrorRules, QueueConfig
from streamq.core.failure import Failure, describe
from streamq.core.message import LEVEL_OF, MOST_FIELDS, Delivery, Message, Metadata, is_message_id
from streamq.core.outcome import Ack, DeadLetter, Outcome, Reason, Retry, Wait
from streamq.core.registry import Handler, Registry
from streamq.core.signing import KeyRing, key_id_of

# A type or key that nobody knows is tried again after 5 s at first, then at half its age, at most each minute.
HOLD_FIRST_MS, HOLD_LONGEST_MS = 5_000, 60_000
SUSPECT_FROM = 2  # losses from which a message is run by itself
DEATHS_ALONE = 2  # deaths while it ran by itself that make it poison

_WHY_REFUSED = {
    Reason.TOO_LARGE: "it has more bytes than max_size",
    Reason.MALFORMED: "a field is missing, doubled or of the wrong form",
    Reason.WRONG_QUEUE: "it names another queue or level than that of the stream it lies in",
    Reason.UNSIGNED: "it has no signature, and its queue takes signed messages only",
    Reason.BAD_SIGNATURE: "its signature does not hold: it was changed, or signed with another secret",
    Reason.REVOKED_KEY: "the key that signed it is revoked",
}
LONGEST_PAUSE = 1e9  # seconds: what a handler may ask for, about 30 years


class Admission(NamedTuple):
    """A delivery that may run: what, by whom, with which arguments."""

    message: Message
    handler: Handler
    arguments: dict[str, Any]


class WorkerDied(Exception):
    """The child process that ran a handler died.

    Args:
        text: how it died.
        alone: it ran nothing else before: nobody but this message can be the reason.
    """

    def __init__(self, text: str, *, alone: bool = True) -> None:
        super().__init__(text)
        self.alone = alone


class NoChild(Exception):
    """No child process could be started for a handler. Its message has not run: this says nothing about it."""


def admit(
    delivery: Delivery, config: QueueConfig, keys: KeyRing, registry: Registry, now_ms: int
) -> Admission | Outcome:
    """Decide whether a delivery may run. Nothing is decoded before its signature holds.

    Args:
        delivery: what came from the stream.
        config: its queue's configuration, ``signing`` resolved.
        keys: all keys of this process.
        registry: the app's handlers.
        now_ms: milliseconds since the epoch by the clock of Redis.
    """
    refusal = _refusal(delivery, config, keys)
    if refusal is Reason.UNKNOWN_KEY:
        return _hold(delivery, refusal, config.unknown_key_timeout, now_ms, "no worker here has the key that signed it")
    if refusal is not None:
        return _dead(delivery, refusal, _WHY_REFUSED[refusal])
    fields = delivery.fields
    try:
        metadata = codec.decode_metadata(fields[b"metadata"]) if b"metadata" in fields else Metadata()
        if (late := _expired(metadata, config, now_ms)) is not None:
            return _dead(delivery, Reason.EXPIRED, late)
        if (wait_ms := _foreign_delay(delivery, metadata, now_ms)) > 0:
            return _wait(delivery, Wait.HELD, wait_ms, held_since=0)
        message_type = codec.decode_type(fields[b"payload"])
    except codec.DECODE_ERRORS as error:
        return _dead(delivery, Reason.MALFORMED, describe(error).error)
    handler = registry.resolve(delivery.queue, message_type)
    if handler is None:
        text = f"no handler for type {message_type!r}"
        return _hold(delivery, Reason.UNKNOWN_TYPE, config.unknown_type_timeout, now_ms, text)
    try:
        arguments = handler.binding.arguments(fields[b"payload"])
    except codec.DECODE_ERRORS as error:
        return _dead(delivery, Reason.SCHEMA, describe(error).error)
    return Admission(_message(delivery, message_type, metadata), handler, arguments)


def conclude(error: BaseException | None, admission: Admission, delivery: Delivery, config: QueueConfig,
             rules: ErrorRules) -> Outcome:  # fmt: skip
    """Decide what becomes of a message whose handler came to its end.

    Args:
        error: what the handler raised; None when it returned.
        admission: what ran.
        delivery: the delivery it ran for.
        config: its queue's configuration.
        rules: the configured classification of errors.
    """
    match error:
        case None:
            return Ack()
        case errors.Drop():
            return Ack(dropped=True)
        case errors.Snooze():
            # It came to its end here, so it neither kills its worker nor waits for one that knows it.
            return Retry(Wait.SNOOZED, _pause_ms(error, 0, config), admission.message.retry_count)
        case WorkerDied():
            # Where we heard of it is nowhere in the app: no frames.
            return _died(delivery, describe(error.with_traceback(None)), alone=error.alone)
        case NoChild():
            return _wait(delivery, Wait.HELD, HOLD_FIRST_MS, error=describe(error).error)
    failure = describe(error)
    if isinstance(error, errors.Reject) or not _retries(error, admission.handler, rules):
        return _dead(delivery, Reason.REJECTED, *failure)
    retry_count = admission.message.retry_count
    if retry_count >= retry_limit(admission, config):
        last = Reason.TIMEOUT if isinstance(error, HandlerTimeout) else Reason.MAX_RETRIES
        return _dead(delivery, last, *failure)
    # A failure is not a loss: the handler came to its end, so `deliveries` begins again at 0.
    wait_ms = _pause_ms(error, retry_count, config)
    return Retry(
        Wait.RETRIED, wait_ms, retry_count + 1, deliveries=0, error=failure.error, fingerprint=failure.fingerprint
    )


class HandlerTimeout(TimeoutError):
    """A handler ran into its time limit."""


def retry_limit(admission: Admission, config: QueueConfig) -> int:
    """Retries after the first run: what the message says, else the handler, else the queue."""
    for limit in (admission.message.metadata.max_retries, admission.handler.max_retries):
        if limit is not None:
            return limit
    return config.max_retries


def time_limit(admission: Admission, config: QueueConfig) -> float:
    """Seconds one run may take: the smallest of what the message, the handler and the queue allow."""
    limit, own, asked = config.ack_timeout, admission.handler.timeout, admission.message.metadata.timeout
    if own is not None and own < limit:
        limit = own
    if asked is not None and asked / 1000 < limit:
        limit = asked / 1000
    return limit


def release_suspect(delivery: Delivery, delay_ms: int, now_ms: int) -> Retry:
    """A suspect that cannot be run alone now comes back later, its losses and its first refusal remembered."""
    return _wait(delivery, Wait.SUSPECT, delay_ms, held_since=delivery.counter(b"held_since") or now_ms)


def _refusal(delivery: Delivery, config: QueueConfig, keys: KeyRing) -> Reason | None:
    fields, size = delivery.fields, delivery.size
    if size > config.max_size or size > HARD_MAX_SIZE:
        return Reason.TOO_LARGE
    signed = b"signature" in fields
    if delivery.doubled or not _well_formed(fields, signed=signed):
        return Reason.MALFORMED
    if b"queue" in fields and fields[b"queue"] != delivery.queue.encode():
        return Reason.WRONG_QUEUE
    if b"priority" in fields and LEVEL_OF[fields[b"priority"]] != delivery.level:
        return Reason.WRONG_QUEUE
    if signed:
        return keys.verify(delivery.queue, fields)
    return Reason.UNSIGNED if config.signing == "required" else None


def _well_formed(fields: Mapping[bytes, bytes], *, signed: bool) -> bool:
    if signed and not (b"id" in fields and b"queue" in fields and b"priority" in fields):
        return False  # the signature covers them, so they cannot be filled in
    if b"id" in fields and not is_message_id(fields[b"id"]):
        return False
    return len(fields) <= MOST_FIELDS and b"payload" in fields and fields.get(b"priority", b"1") in LEVEL_OF


def _message(delivery: Delivery, message_type: str, metadata: Metadata) -> Message:
    fields = delivery.fields
    signature = fields.get(b"signature")
    return Message(  # by position: naming nine members takes as long as making them
        delivery.message_id,
        delivery.queue,
        delivery.level,
        message_type,
        fields[b"payload"],
        metadata,
        delivery.counter(b"retry_count"),
        delivery.losses,
        None if signature is None else key_id_of(signature),
    )


def milliseconds(moment: datetime) -> int:
    """Milliseconds since the epoch of a time that a message carries; one without a zone is meant in UTC."""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1000)


def _expired(metadata: Metadata, config: QueueConfig, now_ms: int) -> str | None:
    if metadata.expires_at is not None and milliseconds(metadata.expires_at) <= now_ms:
        return f"expired at {metadata.expires_at.isoformat()}"
    if config.max_age is not None and metadata.created_at is not None:
        age = (now_ms - milliseconds(metadata.created_at)) / 1000
        if age > config.max_age:
            return f"{age:.0f} s old, max_age is {config.max_age:.0f} s"
    return None


def _foreign_delay(delivery: Delivery, metadata: Metadata, now_ms: int) -> int:
    """Milliseconds that a plain XADD asked to wait for. Whoever was promoted carries `deliveries`: it has waited."""
    if metadata.delay_until is None or b"deliveries" in delivery.fields:
        return 0
    return milliseconds(metadata.delay_until) - now_ms


def _pause_ms(error: BaseException, retry_count: int, config: QueueConfig) -> int:
    """What the handler asked for, if that is a time; else what the queue says."""
    after = getattr(error, "after", None) if isinstance(error, errors.Retry | errors.Snooze) else None
    if isinstance(after, timedelta):
        after = after.total_seconds()
    if not isinstance(after, int | float) or (isinstance(after, float) and math.isnan(after)):
        after = retry_delay(
            retry_count, base=config.retry_delay, exponential=config.exponential_backoff, cap=config.max_retry_delay
        )
    return round(min(max(after, 0), LONGEST_PAUSE) * 1000)


def _retries(error: BaseException, handler: Handler, rules: ErrorRules) -> bool:
    if isinstance(error, errors.Retry | HandlerTimeout):
        return True
    if isinstance(error, handler.never_retry):
        return False
    if isinstance(error, handler.retry_on):
        return True
    return classify(error, rules) in (ErrorClass.TRANSIENT, ErrorClass.RETRYABLE)


def _died(delivery: Delivery, failure: Failure, *, alone: bool) -> Outcome:
    """It is a suspect from now on; a second death alone is the verdict, as in ``reclaim``."""
    deaths = delivery.counter(b"alone") + alone
    if deaths >= DEATHS_ALONE:
        return _dead(delivery, Reason.POISON, *failure)
    return Retry(
        Wait.SUSPECT, 1_000, delivery.counter(b"retry_count"), max(SUSPECT_FROM, delivery.losses + 1), alone=deaths,
        error=failure.error, fingerprint=failure.fingerprint,
    )  # fmt: skip


def _hold(delivery: Delivery, reason: Reason, limit: float, now_ms: int, text: str) -> Outcome:
    since = min(delivery.counter(b"held_since") or now_ms, now_ms)  # nobody can write a time that never comes
    held = now_ms - since
    left = round(limit * 1000) - held
    if left <= 0:
        return _dead(delivery, reason, text)
    delay = min(HOLD_LONGEST_MS, max(HOLD_FIRST_MS, held // 2), left)
    return _wait(delivery, Wait.HELD, delay, held_since=since, error=text)


def _wait(delivery: Delivery, why: Wait, delay_ms: int, *, held_since: int | None = None, error: str = "") -> Retry:
    return Retry(
        why,
        delay_ms,
        delivery.counter(b"retry_count"),
        delivery.losses,
        delivery.counter(b"held_since") if held_since is None else held_since,
        delivery.counter(b"alone"),
        error,
    )


def _dead(
    delivery: Delivery, reason: Reason, error: str = "", traceback: str = "", fingerprint: str = ""
) -> DeadLetter:
    return DeadLetter(reason, error, traceback, fingerprint, delivery.counter(b"retry_count"))
