"""What a fault is tried on: apps on a real server, their workers in this process, and a look at what Redis holds.

For instance:
    async with house.app() as app, serving(app) as worker:      # worker.events has what it told its observers
        await app.publish(QUEUE, {"type": "work"})
        await worker.events.until(Settled)
    assert house.books.is_empty()
"""

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager, contextmanager

import redis

from streamq import StreamQ
from streamq.core.config import Config, WorkerConfig
from streamq.settings import Settings
from tests.runtime.rig import GROUP, QUEUE, Books, Events, serving, soon, turns, until
from tests.support import wait_until

__all__ = [
    "GROUP", "KEEPS_ALL", "QUEUE", "Books", "Events", "House", "eventually", "house_on", "passed", "serving", "soon",
    "turns", "until",
]  # fmt: skip

#: For a server that may be killed: what it has acknowledged, it keeps.
KEEPS_ALL = ("--appendonly", "yes", "--appendfsync", "always")

#: Short times, so that a test sees within seconds what takes minutes in production.
QUICK = {"lease": 2.0, "retry_delay": 0.05}
LIMITS = {"block": 0.5, "beat_interval": 0.25}


async def eventually(condition, seconds=25):
    """Wait for what Redis or another process does in its own time; the loop goes on meanwhile."""
    await asyncio.to_thread(wait_until, condition, seconds)


async def passed(seconds):
    """Wait for time, where nothing else tells that something does not happen."""
    until = time.monotonic() + seconds
    await asyncio.to_thread(wait_until, lambda: time.monotonic() > until, seconds + 5)


class House:
    """Apps on one server. At the end of each test the law of protocol 3.3 must hold.

    Attributes:
        server: the private server, to kill or freeze.
        raw: sends one command, past streamq, and returns the reply as Redis wrote it.
        books: what Redis holds of the queue ``orders``; ``books.of(name)`` of another.
        outside: by queue, how many messages the test took away behind the protocol's back: the imbalance at the end.
        deleted: by queue, the levels whose streams it deleted.
        dead_outside: dead letters that it took away.
    """

    def __init__(self, server, client):
        self.server, self.raw = server, client.execute_command
        self.books = Books(self.raw)
        self.outside, self.deleted, self.dead_outside = Counter(), {}, 0

    def app(self, *, limits=None, signing_keys=None, url=None, **queue):
        """An app, not yet connected, whose queues differ from the defaults of these tests."""
        config = Config(defaults={**QUICK, **queue}, worker=WorkerConfig(**{**LIMITS, **(limits or {})}))
        return StreamQ(settings=Settings(config=config, redis_url=url or self.server.url, signing_keys=signing_keys))

    @contextmanager
    def setting(self, **settings):
        """Change settings of the server for the time of a block."""
        names = {name.replace("_", "-"): value for name, value in settings.items()}
        before = {name: self.raw("CONFIG", "GET", name)[1] for name in names}
        for name, value in names.items():
            self.raw("CONFIG", "SET", name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                self.raw("CONFIG", "SET", name, value)

    async def moment(self, queue=QUEUE):
        """One queue at one moment."""
        async with self.app() as app:
            return await app.session.inspector.moment(queue)

    async def audit(self):
        """All queues by name, and the dead letters."""
        async with self.app() as app:
            names = await app.session.inspector.names()
            return {name: await app.session.auditor.queue(name) for name in names}, (
                await app.session.auditor.dead_letters()
            )

    async def check_law(self):
        """What came in and did not go out lies there, but for what the test says it took away."""
        queues, dead = await self.audit()
        for name, moment in queues.items():
            found = (name, moment.imbalance, moment.body_imbalance, moment.deleted_streams)
            assert found == (name, self.outside[name], 0, self.deleted.get(name, [])), moment
        assert dead.imbalance == self.dead_outside, dead


@asynccontextmanager
async def house_on(server):
    """A house on a server, and the law at its end."""
    with redis.Redis.from_url(server.url, protocol=2) as client:
        client.response_callbacks.clear()
        house = House(server, client)
        yield house
        await house.check_law()
