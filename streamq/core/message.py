"""What travels: a message as its publisher made it, a raw entry of a stream, and one delivery of it to a worker.

The bytes are those of the protocol: an entry is a flat list of fields that any language can write with one XADD.
The signed fields never change after publishing; the counters beside them are advisory.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

import msgspec

from streamq.core.config import LEVELS, Level
from streamq.core.errors import InvalidMessage

PRIORITY_OF: dict[str, bytes] = {level: b"%d" % number for number, level in enumerate(LEVELS, start=1)}
LEVEL_OF: dict[bytes, Level] = {b"%d" % number: level for number, level in enumerate(LEVELS, start=1)}

SIGNED_FIELDS = (b"id", b"queue", b"priority", b"payload", b"metadata")
MOST_FIELDS = 3500  # of an entry: more than that no script can carry on (lua/lib/entry.lua)
COUNTERS = (b"retry_count", b"deliveries", b"held_since", b"alone")
_OURS = frozenset(COUNTERS)
_ID = re.compile(rb"[A-Za-z0-9_.:-]{1,128}")
_MADE_UP_ID = re.compile(rb"e(?:critical|high|normal|low)-[0-9]+-[0-9]+")
_COUNTER = re.compile(rb"[0-9]{1,16}")

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Metadata(msgspec.Struct, frozen=True, omit_defaults=True):
    """The signed circumstances of a message. Every member may be absent; unknown ones are ignored.

    Args:
        created_at: when it was published.
        created_by: who published it.
        correlation_id: ties together the messages of one business case.
        max_retries: retries after the first run; None leaves it to the handler and the queue.
        delay_until: not to be run before this time.
        timeout: time limit of one run, in milliseconds.
        expires_at: not to be run after this time.
        headers: trace context and the user's own values.
    """

    created_at: datetime | None = None
    created_by: str | None = None
    correlation_id: str | None = None
    max_retries: Count | None = None
    delay_until: datetime | None = None
    timeout: Count | None = None
    expires_at: datetime | None = None
    headers: dict[str, Any] | None = None


class Message(msgspec.Struct, frozen=True, gc=False):
    """A verified message, as a handler sees it in ``ctx.message``.

    Args:
        id: the message's own id, the same over every retry.
        queue: the queue it was published to.
        priority: its level inside the queue.
        type: names the handler.
        payload: the JSON bytes as they were signed.
        metadata: the signed circumstances.
        retry_count: how often a handler has failed on it so far.
        deliveries: how often a worker vanished with it so far.
        key_id: the key that signed it; None when unsigned.
    """

    id: str
    queue: str
    priority: Level
    type: str
    payload: bytes
    metadata: Metadata
    retry_count: int
    deliveries: int
    key_id: str | None


class Delivery(msgspec.Struct, eq=False, gc=False):
    """One hand-over of an entry to this worker. The entry is not trusted yet.

    ``token`` is times_delivered at hand-over: together with our name as its consumer it proves that the entry is
    still ours. ``size`` counts what its publisher wrote, not what we wrote beside it: a message that was small enough
    once is so on every retry. The lower fields belong to the runtime while the delivery is in flight.
    """

    queue: str
    level: Level
    entry_id: str
    fields: Mapping[bytes, bytes]
    token: int
    size: int
    doubled: bool = False  # a field name was given twice: nobody can say which one was meant
    losses: int = 0  # workers that vanished while holding it: `deliveries` + times_delivered - 1
    started_at: float = 0.0  # monotonic; 0 while it waits for its turn
    deadline: float = float("inf")  # monotonic
    lost: bool = False  # another worker owns it now
    settling: bool = False  # its outcome is on its way to Redis
    proven_at: float = float("inf")  # monotonic: when it was surely ours for the last time; infinite: just now

    @property
    def key(self) -> tuple[Level, str]:
        """What names an entry inside its queue: entry ids are unique in one stream only."""
        return (self.level, self.entry_id)

    @property
    def message_id(self) -> str:
        """The message's id, or the one that stands for an absent or unusable one."""
        raw = self.fields.get(b"id")
        if raw is not None and is_message_id(raw):
            return raw.decode()
        return f"e{self.level}-{self.entry_id}"

    def counter(self, name: bytes) -> int:
        """An unsigned counter of the entry; whatever is not a plain number counts as 0."""
        raw = self.fields.get(name)
        return 0 if raw is None else _count(raw)


def delivery_from(
    queue: str, level: Level, entry_id: bytes, flat: Sequence[bytes], token: int = 1, *, losses: int | None = None
) -> Delivery:
    """Take a raw entry as Redis returns it.

    Args:
        queue: the queue whose stream it came from.
        level: the level of that stream.
        entry_id: the stream's id of the entry.
        flat: name, value, name, value ...
        token: times_delivered of the pending entry.
        losses: workers lost with it so far, where the caller knows better than the entry itself.
    """
    names = iter(flat)
    fields = dict(zip(names, names, strict=True))
    size = len(b"".join(flat))
    if not _OURS.isdisjoint(fields) or fields.get(b"id", b"").startswith(b"e"):
        size -= _added_size(fields)
    if losses is None:
        losses = token - 1 + (_count(fields[b"deliveries"]) if b"deliveries" in fields else 0)
    return Delivery(queue, level, entry_id.decode(), fields, token, size, 2 * len(fields) != len(flat), losses)


@dataclass(slots=True)
class Draft:
    """A message on its way out: final bytes, and what the publish script needs to know beside them.

    Args:
        id: the message id, made before the first try so that a repeated try is recognised.
        level: the stream it goes to.
        fields: name, value, name, value ... of the entry.
        delay_ms: milliseconds from now, by the clock of Redis; 0 = at once.
        due_ms: absolute milliseconds since the epoch instead of ``delay_ms``; 0 = not given.
        idempotency_key: a later message with the same key is not accepted.
    """

    id: str
    level: Level
    fields: list[bytes]
    delay_ms: int = 0
    due_ms: int = 0
    idempotency_key: str | None = None
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = sum(map(len, self.fields))


def new_message_id(now_ms: int) -> str:
    """``msg_`` and a UUIDv7 (RFC 9562, 5.7): ids sort by the time they were made.

    Args:
        now_ms: milliseconds since the epoch.
    """
    value = bytearray(now_ms.to_bytes(6) + os.urandom(10))
    value[6] = value[6] & 0x0F | 0x70
    value[8] = value[8] & 0x3F | 0x80
    return f"msg_{value.hex()}"


def is_message_id(raw: bytes) -> bool:
    """Whether these bytes may be the id of a message, ours or another publisher's."""
    return _ID.fullmatch(raw) is not None


def check_message_id(message_id: str) -> str:
    """Return the id when others may use it.

    Raises:
        InvalidMessage: it has other characters than the protocol allows, or too many.
    """
    if not is_message_id(message_id.encode(errors="replace")):
        raise InvalidMessage(f"message id {message_id!r}: 1 to 128 characters of A-Z a-z 0-9 _ . : - are allowed")
    return message_id


def _count(raw: bytes) -> int:
    return int(raw) if _COUNTER.fullmatch(raw) else 0


def _added_size(fields: Mapping[bytes, bytes]) -> int:
    """Bytes that a rewritten entry may have got from us: the counters, and the id and level of one that had none."""
    added = sum(
        len(name) + len(fields[name]) for name in COUNTERS if name in fields and _COUNTER.fullmatch(fields[name])
    )
    message_id = fields.get(b"id", b"")
    return added + len(b"id" + message_id + b"priority1") if _MADE_UP_ID.fullmatch(message_id) else added
