"""Messages that wait to become due: what they are, and under which names they wait."""

from collections.abc import AsyncIterator, Iterable
from typing import Any

import msgspec

from streamq.core import codec
from streamq.core.message import LEVEL_OF
from streamq.store.connection import Connections
from streamq.store.keys import QueueKeys
from streamq.store.replies import counter, scores

PAGE = 500
FAR = 2.0**62  # milliseconds: a score may be infinite


class DelayedMessage(msgspec.Struct, frozen=True):
    """A message that waits.

    Args:
        id: what `cancel` takes.
        queue: where it waits.
        due_ms: when it is due, milliseconds since the epoch.
        type: of its payload, where that can be read.
        priority: the level it will go to; None where that cannot be read.
        retry_count: handler failures so far.
    """

    id: str
    queue: str
    due_ms: int
    type: str | None
    priority: str | None
    retry_count: int


async def delayed_messages(
    connections: Connections, keys: QueueKeys, queue: str, limit: int | None = None
) -> AsyncIterator[DelayedMessage]:
    """Messages that wait, the next one first.

    Args:
        connections: how to reach Redis.
        keys: of the queue.
        queue: its name.
        limit: how many at most.
    """
    seen = 0
    while limit is None or seen < limit:
        stop = seen + PAGE if limit is None else min(seen + PAGE, limit)
        page = scores(await connections.execute("ZRANGE", keys.delayed, seen, stop - 1, "WITHSCORES"))
        if not page:
            return
        bodies = await connections.execute("HMGET", keys.messages, *(member for member, _ in page))
        for (member, due), body in zip(page, bodies, strict=True):
            yield _delayed(queue, member.decode(errors="replace"), due, body)
        seen += len(page)


async def names_of(connections: Connections, keys: QueueKeys, ids: Iterable[str]) -> dict[str, list[str]]:
    """Under which names messages wait: their own id, and `ID~...` where that was taken.

    Args:
        connections: how to reach Redis.
        keys: of the queue.
        ids: of messages, or such names themselves.

    Returns:
        The names, by the id that was asked for; an empty list where nothing waits.
    """
    found: dict[str, list[str]] = {message_id: [] for message_id in ids}
    one = next(iter(found)) if len(found) == 1 else None
    narrowed = ("MATCH", f"{_literally(one)}*") if one is not None else ()
    cursor: Any = 0
    while True:
        cursor, flat = await connections.execute("ZSCAN", keys.delayed, cursor, *narrowed, "COUNT", 10 * PAGE)
        for member, _ in scores(flat):
            name = member.decode(errors="replace")
            asked = name if name in found else name.partition("~")[0]
            if asked in found and name not in found[asked]:  # ZSCAN may show a member twice
                found[asked].append(name)
        if int(cursor) == 0:
            return found


def _delayed(queue: str, member: str, due: float, body: bytes | None) -> DelayedMessage:
    fields = read_packed(body or b"")
    kind = None
    try:
        kind = codec.decode_type(fields[b"payload"])
    except (KeyError, *codec.DECODE_ERRORS):
        pass
    level = LEVEL_OF.get(fields.get(b"priority", b""))
    return DelayedMessage(
        member, queue, round(max(-FAR, min(FAR, due))), kind, level, counter(fields.get(b"retry_count"))
    )


def read_packed(packed: bytes) -> dict[bytes, bytes]:
    """The fields of a packed entry; empty when it is not one."""
    parts, at = [], 0
    while at < len(packed):
        colon = packed.find(b":", at, at + 9)
        if colon < 0 or not packed[at:colon].isdigit():
            return {}
        end = colon + 1 + int(packed[at:colon])
        if packed[end : end + 1] != b",":
            return {}
        parts.append(packed[colon + 1 : end])
        at = end + 1
    return dict(zip(parts[::2], parts[1::2], strict=True)) if len(parts) % 2 == 0 else {}


def _literally(text: str) -> str:
    """A pattern of Redis that matches exactly this text."""
    return "".join(f"\\{char}" if char in "*?[]^-\\" else char for char in text)
