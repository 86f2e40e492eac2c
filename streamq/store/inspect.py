"""Looking, apart from changing: depths, workers, what waits."""

from collections import Counter
from collections.abc import AsyncIterator, Iterable
from typing import Annotated, Any

import msgspec

from streamq.core import codec
from streamq.core.config import Config, QueueConfig
from streamq.core.ledger import Moment
from streamq.store.connection import Connections
from streamq.store.delayed import DelayedMessage, delayed_messages, names_of
from streamq.store.keys import Keyspace
from streamq.store.outages import GroupMissing
from streamq.store.replies import counter, pairs, text
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
        beat_age_s: seconds since its last beat; None when it holds entries but never beat.
        pending: entries it holds.
        slots: handlers it runs at once.
        types: what it can handle.
        started_ms: when it started, milliseconds since the epoch.
        version: of its streamq.
        protocol: of what it writes to Redis.
    """

    consumer: str
    queue: str
    alive: bool
    beat_age_s: float | None
    pending: int
    slots: int | None = None
    types: list[str] = []
    started_ms: int | None = None
    version: str | None = None
    protocol: int | None = None


class Inspector:
    """Looks at everything below one prefix.

    Args:
        connections: how to reach Redis.
        keyspace: how keys are spelled.
        config: groups, and how long a worker may be silent.
    """

    def __init__(self, connections: Connections, keyspace: Keyspace, config: Config) -> None:
        self._connections, self._keyspace, self._config = connections, keyspace, config
        self._tallies: dict[str, tuple[object, Counter[str]]] = {}  # by stream: what it was when it was counted

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
            beats, _ = await self._beats(queue)
            alive = sum(self._is_alive(moment.now_ms - beat) for beat in beats.values())
            rows.append(_stats(queue, moment, dead.get(queue, 0), alive))
        return rows

    async def dead_by_queue(self) -> dict[str, int]:
        """Dead letters that lie there now, by the queue they came from."""
        streams = [self._keyspace.dead_letter]
        if self._keyspace.clustered:
            streams += [self._keyspace.queue(name).dead for name in await self.names()]
        counts: Counter[str] = Counter()
        for stream in streams:
            counts.update(await self._tally(stream))
        return dict(counts)

    async def workers(self, queue: str) -> list[WorkerInfo]:
        """The workers of a queue, by name."""
        store = self.store(queue)
        moment = await store.moment()
        beats, abouts = await self._beats(queue)
        pending = await self._pending(store)
        rows = []
        for name in sorted({*beats, *pending}):
            age = moment.now_ms - beats[name] if name in beats else None
            about = _about(abouts.get(name))
            alive = age is not None and self._is_alive(age)
            shown = None if age is None else round(age / 1000, 3)
            rows.append(WorkerInfo(name, queue, alive, shown, pending.get(name, 0), **about))
        return rows

    def delayed(self, queue: str, limit: int | None = None) -> AsyncIterator[DelayedMessage]:
        """Messages that wait, the next one first.

        Args:
            queue: which queue.
            limit: how many at most.
        """
        return delayed_messages(self._connections, self._keyspace.queue(queue), queue, limit)

    async def waiting_under(self, queue: str, ids: Iterable[str]) -> dict[str, list[str]]:
        """The names under which messages wait, by message id; see ``store.delayed.names_of``."""
        return await names_of(self._connections, self._keyspace.queue(queue), ids)

    async def _beats(self, queue: str) -> tuple[dict[str, int], dict[str, bytes]]:
        """Last beats in milliseconds, and what workers say of themselves, by consumer."""
        flat = await self._connections.execute("HGETALL", self._keyspace.queue(queue).workers)
        held = {name.decode(errors="replace"): value for name, value in pairs(flat)}
        beats = {name: counter(value) for name, value in held.items() if not name.startswith("!")}
        prefix = "!about:"
        return beats, {name.removeprefix(prefix): value for name, value in held.items() if name.startswith(prefix)}

    def _is_alive(self, age_ms: int) -> bool:
        return age_ms <= self._config.worker.silent_after * 1000

    async def _tally(self, stream: str) -> Counter[str]:
        """Dead letters in a stream by queue; counted again only when something came or went."""
        length = await self._connections.execute("XLEN", stream)
        if not length:
            return Counter()
        last = await self._connections.execute("XREVRANGE", stream, "+", "-", "COUNT", 1)
        mark = (length, last[0][0] if last else None)
        known, counts = self._tallies.get(stream, (None, Counter[str]()))
        if known == mark:
            return counts
        counts, start = Counter(), "-"
        while start:
            last_seen, *found = await self._connections.run(script("tally"), [stream], [start, PAGE])
            counts.update({name.decode(errors="replace"): n for name, n in pairs(found)})
            start = f"({last_seen.decode()}" if last_seen else ""
        self._tallies[stream] = mark, counts
        return counts

    async def _pending(self, store: QueueStore) -> Counter[str]:
        """How many entries each consumer holds."""
        held: Counter[str] = Counter()
        for stream in store.keys.streams:
            try:
                summary = await self._connections.execute("XPENDING", stream, store.group)
            except GroupMissing:  # no worker has been here yet: nothing is pending
                continue
            held.update(_pending_by_consumer(summary))
        return held


def unhealthy(stats: QueueStats, config: QueueConfig) -> list[str]:
    """Why a queue is not healthy; nothing when it is.

    Args:
        stats: how it stands.
        config: its limits.
    """
    said = []
    if stats.ready >= config.healthy_below:
        said.append(f"{stats.ready} messages wait, healthy are fewer than {config.healthy_below}")
    if stats.pending >= config.healthy_pending_below:
        said.append(f"{stats.pending} are in flight, healthy are fewer than {config.healthy_pending_below}")
    if not stats.consumers and stats.ready + stats.pending:
        said.append(f"{stats.ready + stats.pending} messages and no worker")
    return said


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


class _About(msgspec.Struct, omit_defaults=True):
    """What a worker says of itself; anybody can write it, so it is read strictly."""

    slots: int | None = None
    types: list[str] = []
    started_ms: Annotated[int, msgspec.Meta(ge=0, le=2**53)] | None = None
    version: str | None = None
    protocol: int | None = None


def _about(raw: bytes | None) -> dict[str, Any]:
    try:
        about = msgspec.json.decode(raw or b"{}", type=_About)
    except codec.DECODE_ERRORS:
        return {}
    return msgspec.structs.asdict(about)


def _pending_by_consumer(summary: Any) -> dict[str, int]:
    if isinstance(summary, dict):  # as redis-py parses it
        return {text(c["name"]): int(c["pending"]) for c in summary["consumers"]}
    return {text(name): int(count) for name, count in (summary[3] or ())}
