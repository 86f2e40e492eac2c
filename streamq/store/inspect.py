"""Looking, apart from changing: depths, workers, delayed messages, the server itself."""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import msgspec

from streamq.core import codec
from streamq.core.config import Config
from streamq.core.errors import RedisUnavailable
from streamq.core.ledger import Moment
from streamq.store.connection import Connections
from streamq.store.keys import Keyspace
from streamq.store.scripts import script
from streamq.store.streams import QueueStore

PAGE = 500


class QueueStats(msgspec.Struct, frozen=True):
    """How a queue stands.

    Args:
        queue: its name.
        ready: entries that nobody has fetched yet.
        pending: entries in flight.
        delayed: messages that wait to become due.
        dead: dead letters of this queue that lie there now.
        oldest_ready_age_s: seconds that the oldest ready entry has waited; None when there is none.
        oldest_pending_age_s: seconds since the oldest entry in flight was added; None when there is none.
        consumers: workers that beat.
        accepted: messages ever accepted.
        done: messages ever acknowledged.
    """

    queue: str
    ready: int
    pending: int
    delayed: int
    dead: int
    oldest_ready_age_s: float | None
    oldest_pending_age_s: float | None
    consumers: int
    accepted: int
    done: int


class WorkerInfo(msgspec.Struct, frozen=True):
    """One worker on one queue.

    Args:
        consumer: its name.
        queue: which queue.
        alive: whether it beats.
        beat_age_s: seconds since its last beat.
        pending: entries it holds.
        slots: handlers it runs at once.
        types: what it can handle.
        started_ms: when it started, milliseconds since the epoch.
    """

    consumer: str
    queue: str
    alive: bool
    beat_age_s: float
    pending: int
    slots: int | None = None
    types: list[str] = []
    started_ms: int | None = None


class DelayedMessage(msgspec.Struct, frozen=True):
    """A message that waits.

    Args:
        id: what `cancel` takes.
        queue: where it waits.
        due_ms: when it is due, milliseconds since the epoch.
        type: of its payload, where that can be read.
        priority: level it will go to.
        retry_count: handler failures so far.
    """

    id: str
    queue: str
    due_ms: int
    type: str | None
    priority: str | None
    retry_count: int


class ServerFacts(NamedTuple):
    """What a server says of itself; what it may not be asked is missing."""

    info: dict[str, Any]
    settings: dict[str, str]
    refused: list[str]


class Inspector:
    """Looks at everything below one prefix.

    Args:
        connections: how to reach Redis.
        keyspace: how keys are spelled.
        config: groups, and how long a worker may be silent.
    """

    def __init__(self, connections: Connections, keyspace: Keyspace, config: Config) -> None:
        self._connections, self._keyspace, self._config = connections, keyspace, config

    def store(self, queue: str) -> QueueStore:
        """The door to one queue."""
        return QueueStore(self._connections, self._keyspace, queue, self._config.queue(queue).consumer_group)

    async def names(self) -> list[str]:
        """Queues that have been used, sorted."""
        return sorted(name.decode() for name in await self._connections.execute("SMEMBERS", self._keyspace.names))

    async def moment(self, queue: str) -> Moment:
        """One queue at one moment."""
        return await self.store(queue).moment()

    async def stats(self, queues: list[str]) -> list[QueueStats]:
        """How queues stand."""
        dead = await self.dead_by_queue()
        rows = []
        for queue in queues:
            moment = await self.moment(queue)
            alive = sum(worker.alive for worker in await self.workers(queue))
            rows.append(_stats(queue, moment, dead.get(queue, 0), alive))
        return rows

    async def dead_by_queue(self) -> dict[str, int]:
        """Dead letters that lie there now, by the queue they came from."""
        counts: Counter[str] = Counter()
        streams = [self._keyspace.dead_letter]
        if self._keyspace.clustered:
            streams += [self._keyspace.queue(name).dead for name in await self.names()]
        for stream in streams:
            start = "-"
            while start:
                last, *pairs = await self._connections.run(script("tally"), [stream], [start, PAGE])
                counts.update({name.decode(): n for name, n in zip(pairs[::2], pairs[1::2], strict=True)})
                start = f"({last.decode()}" if last else ""
        return dict(counts)

    async def dead_ledger(self) -> tuple[int, int]:
        """Entries in the stream of all dead letters, and how many were ever purged from it."""
        length = await self._connections.execute("XLEN", self._keyspace.dead_letter)
        purged = await self._connections.execute("HGET", self._keyspace.dead_letter_ledger, "purged")
        return int(length), int(purged or 0)

    async def workers(self, queue: str) -> list[WorkerInfo]:
        """The workers of a queue, by name."""
        store = self.store(queue)
        moment = await store.moment()
        flat = await self._connections.execute("HGETALL", store.keys.workers)
        beats = {name.decode(): value for name, value in _pairs(flat)}
        rows = []
        for name, beat in sorted(beats.items()):
            if not name.startswith("!") and beat.isdigit():
                age = (moment.now_ms - int(beat)) / 1000
                about = _about(beats.get(f"!about:{name}"))
                alive = age <= self._config.worker.silent_after
                rows.append(WorkerInfo(name, queue, alive, round(age, 3), await self._pending(store, name), **about))
        return rows

    async def delayed(self, queue: str, limit: int = 1000) -> AsyncIterator[DelayedMessage]:
        """Messages that wait, the next one first.

        Args:
            queue: which queue.
            limit: how many at most.
        """
        keys = self._keyspace.queue(queue)
        seen = 0
        while seen < limit:
            stop = min(seen + PAGE, limit) - 1
            page = _scores(await self._connections.execute("ZRANGE", keys.delayed, seen, stop, "WITHSCORES"))
            if not page:
                return
            bodies = await self._connections.execute("HMGET", keys.messages, *(member for member, _ in page))
            for (member, due), body in zip(page, bodies, strict=True):
                yield _delayed(queue, member.decode(errors="replace"), due, body)
            seen += len(page)

    async def server(self) -> ServerFacts:
        """What the server says of itself, as far as we may ask."""
        refused: list[str] = []
        info: dict[str, Any] = {}
        settings: dict[str, str] = {}
        try:
            found = await self._connections.execute("INFO")
            info = found if isinstance(found, dict) else {}
        except RedisUnavailable:
            refused.append("INFO")
        for name in ("maxmemory-policy", "maxmemory", "appendonly", "appendfsync", "save", "timeout"):
            try:
                reply = await self._connections.execute("CONFIG", "GET", name)
                settings.update({_text(key): _text(value) for key, value in _pairs(reply)})
            except RedisUnavailable:
                refused.append(f"CONFIG GET {name}")
        return ServerFacts(info, settings, refused)

    async def types(self, queue: str) -> dict[str, str]:
        """The type of each key of a queue that is there."""
        keys = self._keyspace.queue(queue)
        named = {name: getattr(keys, name) for name in keys.__slots__}
        found = {key: _text(await self._connections.execute("TYPE", key)) for key in named.values()}
        return {key: kind for key, kind in found.items() if kind != "none"}

    async def groups(self, queue: str) -> list[str]:
        """The consumer groups on any stream of a queue."""
        names: set[str] = set()
        for stream in self._keyspace.queue(queue).streams:
            try:
                for group in await self._connections.execute("XINFO", "GROUPS", stream):
                    names.add(_text(dict(_pairs(group)).get(b"name") or dict(_pairs(group)).get("name")))
            except RedisUnavailable as error:
                if "no such key" not in str(error).lower():
                    raise
        return sorted(names)

    async def _pending(self, store: QueueStore, consumer: str) -> int:
        total = 0
        for stream in store.keys.streams:
            try:
                summary = await self._connections.execute("XPENDING", stream, store.group)
            except RedisUnavailable:  # no group yet: nothing is pending
                continue
            total += _pending_of(summary, consumer)
        return total


def _stats(queue: str, moment: Moment, dead: int, alive: int) -> QueueStats:
    levels = moment.levels.values()
    ready = [level.oldest_ready_ms for level in levels if level.oldest_ready_ms is not None]
    pending = [level.oldest_pending_ms for level in levels if level.oldest_pending_ms is not None]
    return QueueStats(
        queue=queue,
        ready=moment.length - moment.pending,
        pending=moment.pending,
        delayed=moment.delayed,
        dead=dead,
        oldest_ready_age_s=_age(moment.now_ms, ready),
        oldest_pending_age_s=_age(moment.now_ms, pending),
        consumers=alive,
        accepted=moment.counters.get("accepted", 0) + moment.foreign,
        done=moment.counters.get("done", 0),
    )


def _age(now_ms: int, moments: list[int]) -> float | None:
    return round(max(0, now_ms - min(moments)) / 1000, 3) if moments else None


def _delayed(queue: str, member: str, due: float, body: bytes | None) -> DelayedMessage:
    fields = read_packed(body or b"")
    kind = None
    try:
        kind = codec.decode_type(fields[b"payload"])
    except (KeyError, *codec.DECODE_ERRORS):
        pass
    retries = fields.get(b"retry_count", b"0")
    priority = fields.get(b"priority")
    return DelayedMessage(
        member, queue, round(due), kind, priority.decode(errors="replace") if priority else None,
        int(retries) if retries.isdigit() else 0,
    )  # fmt: skip


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


def _about(raw: Any) -> dict[str, Any]:
    try:
        about = msgspec.json.decode(raw or b"{}")
    except msgspec.DecodeError:
        return {}
    return {name: about[name] for name in ("slots", "types", "started_ms") if name in about}


def _pending_of(summary: Any, consumer: str) -> int:
    if isinstance(summary, dict):  # as redis-py parses it
        return sum(c["pending"] for c in summary["consumers"] if _text(c["name"]) == consumer)
    return sum(int(count) for name, count in (summary[3] or ()) if _text(name) == consumer)


def _pairs(reply: Any) -> list[tuple[Any, Any]]:
    if isinstance(reply, dict):
        return list(reply.items())
    return list(zip(reply[::2], reply[1::2], strict=True))


def _scores(reply: Any) -> list[tuple[bytes, float]]:
    if reply and not isinstance(reply[0], list | tuple):
        return [(member, float(score)) for member, score in zip(reply[::2], reply[1::2], strict=True)]
    return [(member, float(score)) for member, score in reply]


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
