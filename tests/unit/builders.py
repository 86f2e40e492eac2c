"""Entries, deliveries, queues and handlers as the tests of the core need them: sound unless a test says otherwise."""

from datetime import UTC, datetime

import msgspec

from streamq.core.codec import bind
from streamq.core.config import QueueConfig
from streamq.core.message import Delivery, Message, Metadata, delivery_from
from streamq.core.outcome import DeadLetter, Retry
from streamq.core.policy import Admission
from streamq.core.registry import Handler, Registry
from streamq.core.signing import KeyRing, SigningKey
from tests.unit.foreign_signer import sign

QUEUE = "orders"
NOW_MS = 1_800_000_000_000  # 2027-01-15T08:00:00Z
SECRET = bytes(range(32))
KEY = SigningKey("k1", "active", SECRET)
KEYS = KeyRing((KEY,))


def rfc(milliseconds):
    """A time as metadata carries it, from milliseconds since the epoch."""
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def metadata(**members):
    return msgspec.json.encode(members)


def entry(*, without=(), **fields):
    """The fields of an unsigned entry that runs; ``payload`` and the others may be given as bytes or as text."""
    sound = {
        "id": "msg_1",
        "queue": QUEUE,
        "priority": "3",
        "payload": '{"type":"pay","amount":5}',
        "metadata": "{}",
        **fields,
    }
    return {
        name.encode(): value if isinstance(value, bytes) else str(value).encode()
        for name, value in sound.items()
        if name not in without
    }


def signed(fields, key_id="k1", secret=SECRET, *, derived=False):
    """The same entry with a signature of the foreign signer."""
    return {**fields, b"signature": sign(fields, key_id, secret, derived=derived)}


def deliver(fields, *, level="normal", token=1, losses=None, queue=QUEUE) -> Delivery:
    flat = fields if isinstance(fields, list) else [part for pair in fields.items() for part in pair]
    return delivery_from(queue, level, b"7-0", flat, token, losses=losses)


def queue(**values) -> QueueConfig:
    return QueueConfig(**{"name": QUEUE, "signing": "optional", **values})


async def pay(amount: int):
    """A handler."""


def handler(function=pay, *, type="pay", queues=(QUEUE,), **said) -> Handler:
    return Handler(type=type, queues=queues, function=function, binding=bind(function), **said)


def registry(*handlers) -> Registry:
    found = Registry()
    for one in handlers or (handler(),):
        found.add(one)
    return found


def message(**values) -> Message:
    sound = {
        "id": "msg_1",
        "queue": QUEUE,
        "priority": "normal",
        "type": "pay",
        "payload": b'{"type":"pay","amount":5}',
        "metadata": Metadata(),
        "retry_count": 0,
        "deliveries": 0,
        "key_id": None,
    }
    return Message(**{**sound, **values})


def verdict(outcome):
    """An outcome of ``admit`` in one word: ``runs``, why it waits, or why it is dead."""
    if isinstance(outcome, Admission):
        return "runs"
    assert isinstance(outcome, DeadLetter | Retry)
    return outcome.reason.value if isinstance(outcome, DeadLetter) else outcome.why.value
