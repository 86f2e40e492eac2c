"""One queue on one server: what tests do to it, and what Redis holds before and after."""

import contextlib
from itertools import count

from redis.exceptions import ResponseError

from streamq.core.config import LEVELS
from streamq.core.message import PRIORITY_OF, Draft, delivery_from
from streamq.store.beats import BeatConnection
from streamq.store.keys import Keyspace
from streamq.store.streams import QueueStore
from tests.support import unpack_fields

QUEUE, GROUP = "orders", "workers"
WINDOW, ONCE = 300_000, 86_400_000
LEASE, SILENT = 30_000, 12_000
FAR = 3_600_000  # milliseconds: due long after the test
TYPES = {"delayed": b"zset", "messages": b"hash", "ledger": b"hash", "workers": b"hash"}

FAKE = "fakeredis"

# What fakeredis 2.40 does otherwise than every real server: these tests leave it out.
NOT_ON_THE_FAKE: dict[str, str] = {
    "test_a_stream_that_takes_no_more_refuses_only_its_own": "pcall's error has no text",
    "test_a_redis_without_memory_accepts_nothing": "memory never runs out",
    "test_a_dead_letter_is_small_when_memory_is_full": "memory never runs out",
    "test_what_drains_works_without_memory": "memory never runs out",
    "test_all_but_publishing_works_without_memory": "memory never runs out",
    "test_a_queue_is_registered_without_memory": "memory never runs out",
    "test_a_cursor_goes_on_where_the_last_call_ended": "XAUTOCLAIM looks at all that is pending",
    "test_the_doorbell_rings_when_something_arrives": "XREADGROUP does not block",
    "test_waking_a_wait_strands_nothing": "XREADGROUP does not block",
    "test_what_arrives_while_a_wait_is_woken_is_not_lost": "XREADGROUP does not block",
    "test_a_group_that_goes_while_a_wait_is_on_ends_it": "XREADGROUP does not block",
    "test_one_that_is_closed_for_good_has_no_connection": "there is no connection",
    "test_a_reader_goes_on_after_its_connection_was_cut": "XREADGROUP does not block, and there is no connection",
    "test_a_server_says_what_it_is": "INFO and CONFIG are missing",
    "test_a_worker_may_do_all_that_it_needs": "there are no rights",
}


def fields(message_id="a", level="normal", **more):
    """The fields of an entry as text."""
    start = {"id": message_id, "queue": QUEUE, "priority": PRIORITY_OF[level].decode(), "payload": '{"type":"t"}'}
    return start | {name: str(value) for name, value in more.items()}


def flat(entry):
    return [part.encode() for pair in entry.items() for part in pair]


def draft(message_id="a", level="normal", *, delay_ms=0, due_ms=0, once=None, **more):
    return Draft(message_id, level, flat(fields(message_id, level, **more)), delay_ms, due_ms, once)


def readable(entry):
    """Fields as a dict of text; as pairs when a name is doubled; as they are when they are not pairs."""
    if len(entry) % 2:
        return entry
    pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in zip(*[iter(entry)] * 2, strict=True)]
    return dict(pairs) if len(dict(pairs)) == len(pairs) else pairs


class Desk:
    """Args: how to reach Redis, and a client that sends one command and returns the reply as Redis wrote it."""

    def __init__(self, connections, raw):
        self.connections, self.raw = connections, raw
        self.keyspace = Keyspace()
        self.store = self.queue(QUEUE)
        self.keys = self.store.keys
        self.beats = BeatConnection(connections)
        self.outside = 0  # messages that the test takes away behind the protocol's back
        self._numbers = count()

    def queue(self, name, group=GROUP):
        return QueueStore(self.connections, self.keyspace, name, group)

    # --- doing

    async def publish(self, *drafts, max_length=0, window_ms=WINDOW, once_ms=ONCE):
        return await self.store.publish(drafts, window_ms=window_ms, max_length=max_length, once_ms=once_ms)

    def add(self, level="normal", entry=None, **more):
        """A plain XADD by somebody else. Returns the entry id."""
        parts = flat(fields(f"f{next(self._numbers)}", level, **more)) if entry is None else entry
        return self.raw("XADD", self.keys.stream(level), "*", *parts).decode()

    def fetch(self, consumer="w1", level="normal", count=1000):
        reply = self.raw(
            "XREADGROUP", "GROUP", GROUP, consumer, "COUNT", count, "STREAMS", self.keys.stream(level), ">"
        )
        return [delivery_from(QUEUE, level, entry, parts) for _, found in reply or () for entry, parts in found]

    async def deliver(self, *drafts, consumer="w1"):
        """Publish these and hand all that is ready on their levels to a consumer."""
        assert set(await self.publish(*drafts)) <= {"OK"}
        return [found for level in LEVELS for found in self.fetch(consumer, level)]

    def age(self, delivery, ms=10 * LEASE):
        """Let a pending entry look as if nobody had renewed it for so long."""
        (held,) = self.pending_of(delivery)
        self.raw("XCLAIM", self.keys.stream(delivery.level), GROUP, held[1], 0, delivery.entry_id, "IDLE", ms, "JUSTID")

    def pending_of(self, delivery):
        stream = self.keys.stream(delivery.level)
        return self.raw("XPENDING", stream, GROUP, delivery.entry_id, delivery.entry_id, 1)

    def idle_of(self, delivery):
        return self.pending_of(delivery)[0][2]

    def silence(self, consumer, ms=10 * SILENT):
        """Let a consumer look as if it had not beaten for so long."""
        self.raw("HSET", self.keys.workers, consumer, self.now() - ms)

    def make_due(self, member, ms=1):
        self.raw("ZADD", self.keys.delayed, "XX", ms, member)

    def due_of(self, member):
        score = self.raw("ZSCORE", self.keys.delayed, member)
        return None if score is None else float(score)

    def now(self):
        seconds, micros = self.raw("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    async def reclaim(self, consumer="w2", *, count=10, max_deliveries=20, **more):
        return await self.store.reclaim(
            consumer, lease_ms=LEASE, count=count, silent_after_ms=SILENT, max_deliveries=max_deliveries, **more
        )

    def beat(self, consumer="w1", deliveries=(), about=""):
        return self.beats.extend(
            self.keys, GROUP, consumer, lease_ms=LEASE, silent_after_ms=SILENT, deliveries=deliveries, about=about
        )

    # --- looking

    def state(self, store=None):
        """Everything Redis holds of a queue and of the dead letters, but for what changes by itself: times."""
        keys = (store or self.store).keys
        state = {level: self._stream(keys.stream(level)) for level in LEVELS}
        state["groups"] = {level: self._groups(keys.stream(level)) for level in LEVELS}
        state["pending"] = {
            (level, entry.decode()): (consumer.decode(), times)
            for level in LEVELS
            for entry, consumer, _, times in self._pending(keys.stream(level))
        }
        bodies = self._hash(keys.messages)
        state["delayed"] = sorted(member.decode("latin-1") for member in self._safe("ZRANGE", keys.delayed, 0, -1))
        state["bodies"] = {member.decode("latin-1"): self._body(packed) for member, packed in bodies.items()}
        state["ledger"] = {name.decode(): int(value) for name, value in self._hash(keys.ledger).items()}
        state["workers"] = {name.decode() for name in self._hash(keys.workers)} - {"!needs"}  # since the group was made
        state["seen"] = {i for key in (keys.seen_0, keys.seen_1) for i in self._safe("SMEMBERS", key)}
        state["once"] = {
            key.decode().partition(":once:")[2]: self.raw("GET", key).decode()
            for key in self.raw("KEYS", self.keyspace.once("*", "*"))
            if self.is_a(key, b"string")
        }
        state["dead"] = [self._letter(letter) for letter in self._stream(self.keyspace.dead_letter)]
        return state

    def state_of_keys(self):
        """Every key, as bytes: for what must not change anything at all."""
        return {key: self.raw("DUMP", key) for key in self.raw("KEYS", "*")}

    def is_a(self, key, kind):
        return self.raw("TYPE", key) == kind

    def _safe(self, *command):
        with contextlib.suppress(ResponseError):  # a key of the wrong type, or no group: nothing of ours is there
            return self.raw(*command) or []
        return []

    def _stream(self, key):
        return [readable(parts) for _, parts in self._safe("XRANGE", key, "-", "+")]

    def _groups(self, key):
        return [
            dict(zip(*[iter(group)] * 2, strict=True))[b"name"].decode() for group in self._safe("XINFO", "GROUPS", key)
        ]

    def _pending(self, key):
        return self._safe("XPENDING", key, GROUP, "-", "+", 1000)

    def _hash(self, key):
        parts = self._safe("HGETALL", key)
        return dict(zip(*[iter(parts)] * 2, strict=True))

    def _body(self, packed):
        parts = unpack_fields(packed)
        return packed if parts is None else readable(parts)

    def _letter(self, letter):
        return (
            {name: value for name, value in letter.items() if name != "failed_at"}
            if isinstance(letter, dict)
            else letter
        )

    async def check_law(self):
        """Protocol 3.3: what came in and did not go out lies there; dead letters likewise."""
        dead = replayed = outside = 0
        for name in {QUEUE, *(await self.names())}:
            moment = await self.queue(name).moment()
            outside += moment.imbalance
            assert moment.body_imbalance == 0
            dead += moment.counters.get("dead", 0)
            replayed += moment.counters.get("replayed", 0)
        assert outside == self.outside
        purged = int(self.raw("HGET", self.keyspace.dead_letter_ledger, "purged") or 0)
        assert self.raw("XLEN", self.keyspace.dead_letter) == dead - replayed - purged

    async def names(self):
        return {name.decode() for name in self.raw("SMEMBERS", self.keyspace.names)}
