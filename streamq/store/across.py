"""Dead letters in a Cluster: queues and the common stream lie on different slots, so what elsewhere is one step is two.

The first leaves a mark, the second may be repeated: a crash in between loses and doubles nothing.
"""

from typing import Any

from streamq.core.message import LEVEL_OF, SIGNED_FIELDS
from streamq.store.connection import Connections
from streamq.store.keys import Keyspace
from streamq.store.scripts import script

MARK_MS = 7 * 86_400_000  # how long a mark is kept: far longer than anybody takes between the two steps
PAGE = 100


async def move(connections: Connections, keyspace: Keyspace, queue: str) -> int:
    """Bring a queue's dead letters to the common stream, the oldest first.

    Args:
        connections: how to reach Redis.
        keyspace: how keys are spelled.
        queue: whose.

    Returns:
        How many left the queue.

    Raises:
        RedisUnavailable: Redis did not answer; what was begun is finished by the next call, whoever makes it.
    """
    keys = keyspace.queue(queue)
    page = await connections.execute("XRANGE", keys.dead, "-", "+", "COUNT", PAGE)
    for entry, fields in page:
        held = _flat(fields)
        message_id = dict(zip(held[::2], held[1::2], strict=True)).get(b"original_id", b"").decode(errors="replace")
        mark = keyspace.moved(queue, entry.decode(), message_id)
        await connections.run(script("move"), [keyspace.dead_letter, mark], [MARK_MS, *held])
        await connections.execute("XDEL", keys.dead, entry)
    return len(page)


async def replay(
    connections: Connections, keyspace: Keyspace, queue: str, dlq_id: str, fields: dict[bytes, bytes]
) -> str:
    """Bring one dead letter back to its queue.

    Args:
        connections: how to reach Redis.
        keyspace: how keys are spelled.
        queue: where to.
        dlq_id: its entry id in the common stream.
        fields: what it holds; without a payload, what was kept raw goes back.

    Returns:
        ``OK``, ``GONE`` when somebody else was faster, or ``RAW`` when nothing usable was kept.
    """
    mark = keyspace.replayed(queue, dlq_id)
    if not await connections.execute("EXISTS", mark):
        there = await connections.execute("XRANGE", keyspace.dead_letter, dlq_id, dlq_id)
        if not there:
            return "GONE"
    level, flat = _carried(fields)
    args = [MARK_MS, level, *flat]
    word = (await connections.run(script("replay_across"), keyspace.queue(queue), args, [mark])).decode()
    if word in {"RAW", "PURGED"}:
        return "RAW" if word == "RAW" else "GONE"
    gone = await connections.execute("XDEL", keyspace.dead_letter, dlq_id)
    return "OK" if gone else "GONE"


async def may_purge(connections: Connections, keyspace: Keyspace, queue: str, dlq_id: str) -> bool:
    """Whether a letter may be purged: from now on nobody brings it back.

    Not when it has arrived at its queue already: then it is for its replay to take it away.
    """
    mark = keyspace.replayed(queue, dlq_id)
    await connections.execute("SET", mark, "purged", "NX", "PX", MARK_MS)
    return bool(await connections.execute("GET", mark) == b"purged")  # a mark is never written over


def _carried(fields: dict[bytes, bytes]) -> tuple[str, list[bytes]]:
    if not {b"payload", b"original_id"} <= fields.keys():
        return "normal", [b"raw", fields.get(b"raw", b"")]
    carried = {name: fields[name] for name in (*SIGNED_FIELDS, b"signature") if name in fields}
    carried.setdefault(b"id", fields[b"original_id"])
    level = LEVEL_OF.get(carried.get(b"priority", b"3"), "normal")
    return level, [part for pair in {**carried, b"retry_count": b"0"}.items() for part in pair]


def _flat(fields: Any) -> list[bytes]:
    return [part for pair in fields.items() for part in pair] if isinstance(fields, dict) else list(fields)
