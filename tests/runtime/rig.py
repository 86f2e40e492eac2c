"""One queue as a worker has it, on a private server: roles are put on it one by one, and Redis is looked at."""

import asyncio
import time
from contextlib import asynccontextmanager
from itertools import count

from redis.exceptions import ResponseError

from streamq import StreamQ
from streamq.core.clock import SystemClock
from streamq.core.config import LEVELS, ErrorRules, QueueConfig, WorkerConfig
from streamq.core.errors import RedisUnavailable
from streamq.core.events import Observers
from streamq.core.message import PRIORITY_OF, Draft, delivery_from
from streamq.core.signing import KeyRing
from streamq.runtime.dispatcher import Dispatcher
from streamq.runtime.executors import Executors
from streamq.runtime.in_flight import InFlight
from streamq.runtime.isolation import Isolation
from streamq.runtime.lane import Lane
from streamq.runtime.lifecycle import Lifecycle
from streamq.runtime.redis_clock import RedisClock
from streamq.runtime.run import Surroundings
from streamq.runtime.settler import Settler
from streamq.runtime.supervisor import Supervisor
from streamq.store.connection import Connections
from streamq.store.keys import Keyspace
from streamq.store.streams import QueueStore

QUEUE, GROUP = "orders", "streamq"
US, OTHER = "us", "other"
PATIENCE = 25.0  # seconds after which a test that waits for an event has failed


def soon(awaitable):
    """Wait for what happens by itself, but not for ever."""
    return asyncio.wait_for(awaitable, PATIENCE)


async def turns(number=20):
    """Let the loop turn: whatever could go on without waiting for anything has gone on."""
    for _ in range(number):
        await asyncio.sleep(0)


async def until(condition):
    """Let the loop turn until something has happened that makes no event."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0)


def fields(message_id, *, level="normal", kind="work", payload=None, **more):
    """The fields of an entry, flat."""
    entry = {
        "id": message_id, "queue": QUEUE, "priority": PRIORITY_OF[level].decode(),
        "payload": payload or f'{{"type":"{kind}"}}',
    }  # fmt: skip
    entry |= {name: str(value) for name, value in more.items()}
    return [part.encode() for pair in entry.items() for part in pair]


@asynccontextmanager
async def serving(app, *queues, **choices):
    """Run a worker of an app for the time of a block; it is reading when the block begins, and ends with it."""
    events = Events()
    app.observe(events)
    worker = app.worker(*queues, **choices)
    worker.events = events
    worker.task = asyncio.ensure_future(worker.run())
    try:
        await until(lambda: worker.task.done() or (worker.worker and worker.worker.health.ready().ok))
        yield worker
        if not (worker.task.done() or worker.worker.lifecycle.is_quiet):  # the second stop would be in a hurry
            worker.stop()
        worker.cut_short = await soon(worker.task)
    finally:
        worker.task.cancel()
        await asyncio.wait([worker.task])


class Events:
    """An observer that can be waited for."""

    def __init__(self):
        self.all = []
        self._changed = asyncio.Event()

    def __call__(self, event):
        self.all.append(event)
        self._changed.set()

    def of(self, kind, **members):
        found = (event for event in self.all if isinstance(event, kind))
        return [event for event in found if all(getattr(event, name) == value for name, value in members.items())]

    async def until(self, kind, number=1, **members):
        """Wait until there were so many of a kind, and return the last of them."""

        async def enough():
            while len(self.of(kind, **members)) < number:
                self._changed.clear()
                await self._changed.wait()

        await soon(enough())
        return self.of(kind, **members)[-1]


class Wire(Connections):
    """Connections that count scripts, and lose requests or replies when they are told to."""

    def __init__(self, url, *, block=2.0):
        super().__init__(url, block=block)
        self.sent = []
        self.cut = 0  # so many requests do not arrive
        self.mute = 0  # so many requests are done, but their replies are lost
        self.gate = None  # an event that requests wait for

    async def run(self, script, keys, args, extra=()):
        self.sent.append(script.name)
        if self.gate is not None:
            await self.gate.wait()
        if self.cut:
            self.cut -= 1
            raise RedisUnavailable("cut")
        reply = await super().run(script, keys, args, extra)
        if self.mute:
            self.mute -= 1
            raise RedisUnavailable("the reply was lost")
        return reply


class Books:
    """What Redis holds of one queue.

    Args: a function that sends one command and returns the raw reply, and the queue's name.
    """

    def __init__(self, raw, queue=QUEUE):
        self.raw, self.keyspace = raw, Keyspace()
        self.keys = self.keyspace.queue(queue)

    def of(self, queue):
        """Those of another queue."""
        return Books(self.raw, queue)

    def now_ms(self):
        seconds, micros = self.raw("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    def ready(self, level="normal"):
        """Ids of what nobody has fetched."""
        held = set(self.pending(level))
        return [name for name in self._ids_on(level) if name not in held]

    def pending(self, level="normal"):
        """Message id -> consumer, times delivered."""
        stream = self.keys.stream(level)
        try:
            rows = self.raw("XPENDING", stream, GROUP, "-", "+", 10_000)
        except ResponseError:  # no worker has made the group yet
            return {}
        bodies = dict(self.raw("XRANGE", stream, "-", "+"))
        return {_id_of(bodies[entry]): (consumer.decode(), times) for entry, consumer, _, times in rows}

    def idle_ms(self, delivery):
        ((_, _, idle, _),) = self.raw(
            "XPENDING", self.keys.stream(delivery.level), GROUP, delivery.entry_id, delivery.entry_id, 1
        )
        return idle

    def delayed(self):
        """Member -> milliseconds until it is due."""
        pairs = self.raw("ZRANGE", self.keys.delayed, 0, -1, "WITHSCORES")
        now = self.now_ms()
        return {member.decode(): float(due) - now for member, due in _pairs(pairs)}

    def waiting(self, member):
        """The fields of a delayed message as a dict of text."""
        packed, parts = self.raw("HGET", self.keys.messages, member), []
        while packed:
            length, _, rest = packed.partition(b":")
            parts.append(rest[: int(length)])
            packed = rest[int(length) + 1 :]
        return {name.decode(): value.decode() for name, value in _pairs(parts)}

    def entries(self, level="normal"):
        """The entries of a stream, each as a dict of text."""
        reply = self.raw("XRANGE", self.keys.stream(level), "-", "+")
        return [{name.decode(): value.decode() for name, value in _pairs(flat)} for _, flat in reply]

    def letters(self):
        """The dead letters, each as a dict of text."""
        reply = self.raw("XRANGE", self.keyspace.dead_letter, "-", "+")
        return [{name.decode(): value.decode() for name, value in _pairs(flat)} for _, flat in reply]

    def ledger(self):
        """The counters, without those that only say where entries were added."""
        found = {name.decode(): int(value) for name, value in _pairs(self.raw("HGETALL", self.keys.ledger))}
        return {name: value for name, value in found.items() if not name.startswith("added:")}

    def consumers(self):
        names = set()
        for stream in self.keys.streams:
            names |= {dict(_pairs(row))[b"name"].decode() for row in self.raw("XINFO", "CONSUMERS", stream, GROUP)}
        return names

    def beats(self):
        """Who is in the books as a worker."""
        names = (name.decode() for name, _ in _pairs(self.raw("HGETALL", self.keys.workers)))
        return {name for name in names if not name.startswith("!")}

    def is_empty(self):
        """Whether nothing is left of any message."""
        return not any(self._ids_on(level) for level in LEVELS) and not self.delayed()

    def _ids_on(self, level):
        return [_id_of(flat) for _, flat in self.raw("XRANGE", self.keys.stream(level), "-", "+")]


class Rig(Books):
    """One lane, its store and an app to register handlers with.

    Args: a ``Wire``, a function that sends one command and returns the raw reply, and what differs from the defaults.
    """

    def __init__(self, wire, raw, *, slots=5, clock=None, limits=None, **config):
        super().__init__(raw)
        self.wire = wire
        self.events, self.observers = Events(), Observers()
        self.observers.add(self.events)
        self.lifecycle = Lifecycle()
        self.app = StreamQ()
        self.isolation, self.executors = Isolation(), Executors(slots)
        self.fresh, self.renewals, self.bugs = True, [], []
        self.when_renewed = None  # what happens when a lease is to be proven
        self.store = QueueStore(wire, self.keyspace, QUEUE, GROUP)
        self.lane = Lane(
            config=QueueConfig(name=QUEUE, signing="optional", max_consumers=slots, **config),
            limits=WorkerConfig(**(limits or {})),
            consumer=US,
            store=self.store,
            in_flight=InFlight(slots),
            clock=RedisClock(clock or SystemClock()),
            lifecycle=self.lifecycle,
            observers=self.observers,
            supervisor=Supervisor(QUEUE, self.lifecycle, self.observers, self.store.ensure),
        )
        self.outside = 0  # messages that the test takes away behind the protocol's back
        self._ids = count()
        self._tasks = []

    # --- doing

    def background(self, coroutine):
        """Run something until the test ends."""
        task = asyncio.ensure_future(coroutine)
        self._tasks.append(task)
        return task

    async def add(self, *ids, number=0, delay_ms=0, due_ms=0, level="normal", **entry):
        """Publish messages, by their ids or so many."""
        ids = ids or [f"m{next(self._ids)}" for _ in range(number or 1)]
        drafts = [Draft(i, level, fields(i, level=level, **entry), delay_ms, due_ms) for i in ids]
        words = await self.store.publish(drafts, window_ms=300_000, max_length=0, once_ms=1000)
        assert set(words) == {"OK"}
        return list(ids)

    def fetch(self, consumer=US, *, level="normal", number=1000):
        """Hand what is ready to a consumer, as its reader would."""
        reply = self.raw(
            "XREADGROUP", "GROUP", GROUP, consumer, "COUNT", number, "STREAMS", self.keys.stream(level), ">"
        )
        return [delivery_from(QUEUE, level, entry, flat) for _, found in reply or () for entry, flat in found]

    async def deliver(self, *ids, consumer=US, level="normal", **entry):
        """Publish messages and hand them to a consumer."""
        await self.add(*ids, level=level, **entry)
        return self.fetch(consumer, level=level)

    async def deliver_one(self, *ids, **entry):
        (delivery,) = await self.deliver(*ids, **entry)
        return delivery

    def take_away(self, delivery, consumer=OTHER):
        """Another worker takes an entry over."""
        self.raw("XCLAIM", self.keys.stream(delivery.level), GROUP, consumer, 0, delivery.entry_id)

    def age(self, *deliveries, ms=3_600_000):
        """Let pending entries look as if nobody had renewed them for so long."""
        for delivery in deliveries:
            stream = self.keys.stream(delivery.level)
            ((_, holder, _, _),) = self.raw("XPENDING", stream, GROUP, delivery.entry_id, delivery.entry_id, 1)
            self.raw("XCLAIM", stream, GROUP, holder, 0, delivery.entry_id, "IDLE", ms, "JUSTID")

    def beaten(self, consumer, ms_ago=0):
        """Let a consumer look as if it had beaten so long ago."""
        self.raw("HSET", self.keys.workers, consumer, self.now_ms() - ms_ago)

    def dispatcher(self, *, keys=None, rules=None, state=None, publish=None, suspects=None, settle=True):
        """A dispatcher whose settler runs by itself, unless the test wants to do that."""
        around = Surroundings(
            registry=self.app.registry,
            keys=keys or KeyRing(),
            rules=rules or ErrorRules(),
            layers=self.app._middleware,
            state=state,
            publish=publish or self.app.publish,
            logger_for=lambda message: f"log of {message.id}",
            isolation=self.isolation,
            executors=self.executors,
            suspects=suspects,
        )

        async def renew(lane):
            self.renewals.append(lane)
            if self.when_renewed is not None:
                await self.when_renewed()

        dispatcher = Dispatcher(
            self.lane, around, is_fresh=lambda _: self.fresh, renew=renew, failed=self.bugs.append
        )  # fmt: skip
        if settle:
            self.background(dispatcher.settler.run())
        return dispatcher

    def settler(self):
        """A settler alone, and the list of what it said was settled."""
        settled = []
        return Settler(self.lane, settled.append), settled

    async def run(self, dispatcher, *deliveries):
        """Run deliveries to their end."""
        for delivery in deliveries:
            dispatcher.start(delivery)
        await self.emptied()

    async def emptied(self):
        """Wait until Redis has the outcome of whatever was held."""
        await soon(self.lane.in_flight.empty())

    async def aclose(self):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.executors.aclose()
        moment = await self.store.moment()
        assert (moment.imbalance, moment.body_imbalance) == (self.outside, 0)  # protocol 3.3


def _pairs(flat):
    return list(zip(*[iter(flat)] * 2, strict=True))


def _id_of(flat):
    return dict(_pairs(flat)).get(b"id", b"").decode()
