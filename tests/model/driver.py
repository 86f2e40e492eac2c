"""One operation on a real server and on the model, and everything compared after it."""

from collections import Counter
from enum import Enum
from pathlib import Path
from types import FunctionType

import redis
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streamq.core.config import Config
from streamq.core.errors import RedisUnavailable
from streamq.core.signing import KeyRing
from streamq.store.audit import Auditor
from streamq.store.beats import BeatConnection
from streamq.store.connection import Connections
from streamq.store.dead_letters import DeadLetters
from streamq.store.inspect import Inspector
from streamq.store.keys import Keyspace
from streamq.store.outages import GroupMissing, OutOfMemory
from streamq.store.scripts import NEEDS
from streamq.store.streams import NO_CURSORS, QueueStore
from streamq.store.url import parse_url
from tests.model.letters import Crash, Office, Steps
from tests.model.servers import START
from tests.model.streams import NoGroup, key
from tests.model.world import QUEUE, UID

GROUP = "workers"
SNAPSHOT = (Path(__file__).parent / "snapshot.lua").read_text()
ONCE_NAMES = ("k0", "k1", "k2")
DIAGNOSTICS = {"fenced", "late_ack"}
BETWEEN_TRIES = 700  # milliseconds


class Fault(Enum):
    """What befalls the one who calls."""

    NONE = "none"
    TWICE = "sent twice"
    DEAD_BEFORE = "dead before it was sent"
    DEAD_AFTER = "dead before the reply"
    FULL = "memory full"
    FULL_TWICE = "memory full, and sent again when it is not"
    NO_SCRIPTS = "a server that knows no script"


class Awaited:
    """A client, and a line, without an event loop, and with a fuse: its user may die between two commands."""

    address = None

    def __init__(self, client):
        self.client, self.fuse = client, None

    async def execute_command(self, *command):
        if self.fuse == 0:
            raise redis.ConnectionError("the caller is dead")
        reply = self.client.execute_command(*command)
        self.fuse = self.fuse and self.fuse - 1
        return reply

    send = execute_command

    async def open(self):
        pass


class Bench(Connections):
    """One server that a machine runs on, emptied for each of its lives."""

    def __init__(self, server):
        super().__init__(parse_url(server.url))
        self.server, self.operations, self.happened = server, 0, Counter()
        self.used = Awaited(redis.Redis.from_url(server.url))
        self._raw = redis.Redis.from_url(server.url, protocol=2)
        self._raw.response_callbacks.clear()
        self.raw = self._raw.execute_command

    @property
    def commands(self):
        return self.used

    async def _line_to(self, key):
        return self.used

    def beats(self):
        return self.used.client

    def pipeline(self):
        return self._raw.pipeline(transaction=False)

    def close(self):
        self.used.client.close()
        self._raw.close()


def now(coroutine):
    """The result of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits for something")


def often(times, *, only=None, **arguments):
    """A rule that comes up so often.

    Each time has a name of its own: in every life Hypothesis leaves out a random share of the names, which would leave
    nothing to settle wherever `publish` is among them.
    """

    def mark(method):
        method.drawn = times, only, arguments
        return method

    return mark


class Driver(RuleBasedStateMachine):
    """Both sides. `bench` is set by whoever runs a machine."""

    bench: Bench

    def __init_subclass__(cls):
        super().__init_subclass__()
        for name, method in list(vars(cls).items()):
            times, only, arguments = getattr(method, "drawn", (0, None, {}))
            for n in range(1, times + 1):
                copy = FunctionType(method.__code__, method.__globals__, f"{name}_{n}")
                copy = rule(**arguments)(copy)
                setattr(cls, f"{name}_{n}", precondition(only)(copy) if only else copy)

    def __init__(self):
        super().__init__()
        bench = self.bench
        self.raw = bench.raw
        self.keyspace = Keyspace(clustered=bench.server.clustered)
        self.store = QueueStore(bench, self.keyspace, QUEUE.decode(), GROUP)
        self.keys, self.beats = self.store.keys, BeatConnection(bench)
        self.letters = DeadLetters(bench, self.keyspace, KeyRing())
        self.auditor = Auditor(bench, self.keyspace, Inspector(bench, self.keyspace, Config()))
        self.world = Office(START, clustered=bench.server.clustered)
        self.latest = self.floor = START  # the clock has never been later, and is not set back below
        self.hands = []  # (consumer, delivery) as workers remember them, stale ones among them
        self.pages, self.read = [], []  # dead letters as movers and people who replay remember them
        self.cursors, self.numbers, self.names = NO_CURSORS, 0, []
        names = [*self.keys.streams, self.keys.delayed, self.keys.messages, self.keys.ledger, self.keys.workers]
        names += [self.keys.seen_0, self.keys.seen_1, self.keys.dead]
        names += [self.keyspace.once(QUEUE.decode(), name) for name in ONCE_NAMES]
        self._look = (len(names), *names, GROUP)

    @initialize()
    def begin(self):
        bench = self.bench
        self.raw("CONFIG", "SET", "maxmemory", 0)
        self.raw("FLUSHALL")
        bench.server.turn(START)
        bench.snapshot = self.raw("SCRIPT", "LOAD", SNAPSHOT)
        self.turn(START)
        self.ensured()

    # --- doing it twice: for real and in the model

    def perform(self, act, model, fault, *, repeatable=True, steps=None):
        """Returns the reply; None when the caller does not learn of it."""
        if fault is Fault.DEAD_BEFORE:
            return None
        if fault is Fault.NO_SCRIPTS:
            self.raw("SCRIPT", "FLUSH")
            self.bench.snapshot = self.raw("SCRIPT", "LOAD", SNAPSHOT)
        full = fault in (Fault.FULL, Fault.FULL_TWICE)
        reply = self._once(act, model, full, steps)
        if fault in (Fault.TWICE, Fault.FULL_TWICE):
            self.holds()
            before, may_change = self.essence(), reply == "OOM" or steps is not None or not repeatable
            self.turn(self.world.now + BETWEEN_TRIES)
            reply = self._once(act, model, full=False, steps=None)
            assert may_change or self.essence() == before, "sending it twice changes something"
        if reply == "NOGROUP" and fault is Fault.NONE:
            self.ensured()
        return None if reply in ("OOM", "NOGROUP", "FAILED") or fault is Fault.DEAD_AFTER else reply

    def _once(self, act, model, full, steps):
        if full:
            self.raw("CONFIG", "SET", "maxmemory", 1)
        self.bench.used.fuse, self.steps = steps, Steps(steps)
        try:
            reply = act()
        except GroupMissing:
            reply = "NOGROUP"
        except OutOfMemory:
            reply = "OOM"
        except RedisUnavailable as error:
            if steps is None and "exhausted" not in str(error):
                raise
            reply = "FAILED"
        finally:
            self.bench.used.fuse = None
            if full:
                self.raw("CONFIG", "SET", "maxmemory", 0)
        try:
            expected = model(full)
        except NoGroup:
            expected = "NOGROUP"
        except MemoryError:
            expected = "OOM"
        except Crash:
            expected = "FAILED"
        assert reply == expected
        return reply

    def ensured(self):
        now(self.store.ensure())
        self.world.ensure(NEEDS)

    def turn(self, moment):
        """It is later now, or earlier. Redis looks at what has expired before the clock is turned back."""
        self.latest = max(self.latest, moment)
        self.bench.server.turn(moment)
        self.world.turn(moment)
        self.snapshot()

    def essence(self):
        """The world without times, and without the diagnostics that repetition changes."""
        world = self.world
        streams = [
            (s.entries, s.last, [(entry, p.consumer, p.times) for entry, p in s.pending.items()])
            for s in (*world.streams.values(), world.way, world.dead_letter)
        ]
        ledger = sorted((name, value) for name, value in world.ledger.items() if value and name not in DIAGNOSTICS)
        seen = [sorted(ids) for ids, _ in world.seen]
        places = (
            sorted(world.moving),
            sorted(world.returning),
            sorted(world.marks.items()),
            world.dead_letter_ledger["purged"],
        )
        return repr((streams, world.due, world.bodies, ledger, sorted(world.workers), seen, world.once, places))

    # --- comparing

    def snapshot(self):
        with self.bench.pipeline() as pipeline:
            pipeline.execute_command("EVALSHA", self.bench.snapshot, *self._look)
            pipeline.execute_command("HGETALL", self.keyspace.dead_letter_ledger)
            pipeline.execute_command("XRANGE", self.keyspace.dead_letter, "-", "+")
            if self.world.clustered:
                pipeline.execute_command("KEYS", "{*}:*ed:*")
            return pipeline.execute()

    @invariant()
    def holds(self):
        """Everything Redis holds is what the model holds; the law is 0; every message is in exactly one place."""
        self.bench.operations += 1
        (queue, letters_ledger, letters, *marks), world = self.snapshot(), self.world
        for (level, stream), found in zip(world.streams.items(), queue[:4], strict=True):
            assert found == self._stream(stream), level
        delayed = {member: float(score) for member, score in pairs(queue[4])}
        assert delayed == world.due
        bodies = dict(pairs(queue[5]))
        assert bodies == world.bodies
        assert counters(queue[6]) == {name: value for name, value in world.ledger.items() if value}
        assert {name.decode(): beat for name, beat in pairs(queue[7])} == world.workers
        for (ids, until), (known, then) in zip(queue[8:10], world.seen, strict=True):
            assert (set(ids), until) == (known, then if known else -2)
        way = queue[10] if world.clustered else []
        assert way == [list(entry) for entry in world.way.entries.items()]
        assert letters == [list(entry) for entry in world.dead_letter.entries.items()]
        assert counters(letters_ledger) == {name: value for name, value in world.dead_letter_ledger.items() if value}
        assert [(first, until) for first, until in queue[11]] == [world.once.get(n, (None, -2)) for n in ONCE_NAMES]
        assert self._marks(marks) == world.marks
        self._everywhere_once(queue[:4], [bodies[member] for member in delayed if member in bodies], letters, way)
        self._law(letters, way)

    def _marks(self, keys):
        marks = [mark for found in keys for mark in found if b":moved:" in mark or b":replayed:" in mark]
        return {mark: self.raw("GET", mark) for mark in marks}

    def _stream(self, stream):
        pending = [
            [entry, held.consumer.encode(), max(0, self.world.now - held.since), held.times]
            for entry, held in sorted(stream.pending.items(), key=lambda item: key(item[0]))
        ]
        last = b"%d-%d" % stream.last if stream.last is not None else b""
        return [[list(entry) for entry in stream.entries.items()], last, pending]

    def _everywhere_once(self, streams, bodies, letters, way):
        """Each message lies in one place. Between the two steps of a move it has left the place where it still lies."""
        flat = [part for entries, _, _ in streams for _, parts in entries for part in parts] + bodies
        flat += [part for entry, parts in letters if entry not in self.world.returning for part in parts]
        flat += [part for entry, parts in way if entry not in self.world.moving for part in parts]
        assert sorted(map(int, UID.findall(b"".join(flat)))) == sorted(self.world.alive), (
            "every message is in one place"
        )

    def _law(self, letters, way):
        """Protocol 3.3, by what the product itself says of this moment, and for the dead letters by what lies there."""
        world, moment = self.world, now(self.store.moment())
        assert moment.now_ms == world.now
        assert moment.imbalance == world.outside
        assert moment.deleted_streams == world.deleted_streams
        assert moment.body_imbalance == 0 or world.torn
        gone = moment.counters.get("replayed", 0) + sum(world.dead_letter_ledger.values())
        lying = len(letters) + len(way) - len(world.moving) - len(world.returning)
        assert moment.counters.get("dead", 0) - gone - lying == world.letters_outside

    def teardown(self):
        self.bench.happened.update(self.world.ledger)


def counters(flat):
    """A ledger. Nothing writes a 0; only what is written off may come back to it."""
    return {name.decode(): int(value) for name, value in pairs(flat) if (name, value) != (b"written_off", b"0")}


def pairs(flat):
    return zip(flat[::2], flat[1::2], strict=True)
