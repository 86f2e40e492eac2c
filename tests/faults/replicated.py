"""Houses that stand on several servers, and a load that goes on while one of them fails.

What a failover may take away is what no replica had. So most tests publish with ``durable="replica"``: what was
confirmed must be processed or dead, whatever fails; of the rest it is only said that nothing of it gets stuck.
"""

import asyncio
import contextlib
import json
from itertools import count
from types import SimpleNamespace

import redis

from streamq import DurabilityUnconfirmed, PublishUnknown, QueueFull, Reject
from tests.faults.house import QUEUE, House, eventually

FAILS_ONCE, IS_REJECTED = 3, 7  # what the last digit of a number does to its handler


@contextlib.asynccontextmanager
async def house_behind(sentinel):
    """A house on whatever the sentinels call the master, and the law at its end."""

    def raw(*command):
        return _ask(sentinel.master(), command)

    house = House(sentinel, SimpleNamespace(execute_command=raw))
    yield house
    await house.check_law()


@contextlib.asynccontextmanager
async def house_across(cluster):
    """A house whose queues lie on several masters, and the law at its end."""

    def raw(*command):
        key = (*command, "any")[2 if command[0] == "XINFO" else 1]
        return _ask(cluster.master_of(key), command)

    house = House(cluster, SimpleNamespace(execute_command=raw))
    yield house
    await house.check_law()


def _ask(port, command):
    with redis.Redis(port=port, protocol=2, socket_timeout=5) as client:
        client.response_callbacks.clear()
        return client.execute_command(*command)


def spread(cluster, number=3):
    """Names of queues that lie on as many different masters."""
    found = {}
    for name in (f"orders{n}" for n in count()):
        found.setdefault(cluster.master_of(f"queue:{name}"), name)
        if len(found) == number:
            return list(found.values())
    raise AssertionError


class Load:
    """Messages that are published one after the other until ``stop``, and the handler that runs them.

    Args:
        house: whose apps publish and work; they have connections of their own.
        queues: where to, in turn.
        durable: what each publish waits for.

    Attributes:
        worker_app: to be served.
        app: publishes, and looks.
        confirmed: numbers whose publish returned.
        doubtful: numbers that may have been accepted.
        ran: numbers whose handler came to its end.
    """

    def __init__(self, house, *, queues=(QUEUE,), durable="replica", **options):
        self.house, self.queues, self._durable = house, list(queues), durable
        self.worker_app, self.app = house.app(**options), house.app(**options)
        self.confirmed, self.doubtful, self.ran = [], [], []
        self._failed, self._stop, self._task = set(), asyncio.Event(), None

        @self.worker_app.handler(self.queues)
        async def work(number: int):
            await self._work(number)

    async def _work(self, number):
        if number % 10 == FAILS_ONCE and number not in self._failed:
            self._failed.add(number)
            raise OSError("for once")
        if number % 10 == IS_REJECTED:
            raise Reject("no good")
        self.ran.append(number)

    def queue_of(self, number):
        return self.queues[number % len(self.queues)]

    async def __aenter__(self):
        await self.app.__aenter__()
        self._task = asyncio.ensure_future(self._publish())
        return self

    async def __aexit__(self, *_):
        await self.stop()
        await self.app.__aexit__(*_)

    async def stop(self):
        """Publish no more."""
        self._stop.set()
        await asyncio.shield(self._task)

    async def _publish(self):
        for number in count():
            if self._stop.is_set():
                return
            await self.publish(number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), 0.005)

    async def publish(self, number):
        """Publish one message and note what became of it."""
        payload = {"type": "work", "number": number}
        try:
            await self.app.publish(self.queue_of(number), payload, durable=self._durable)
            self.confirmed.append(number)
        except (DurabilityUnconfirmed, PublishUnknown, QueueFull):
            self.doubtful.append(number)

    async def goes_on(self, more=40, seconds=25):
        """Wait until so many more are confirmed."""
        enough = len(self.confirmed) + more
        await eventually(lambda: len(self.confirmed) >= enough, seconds)

    async def done(self, seconds=40):
        """Stop publishing, and wait until nothing is left. Everything confirmed was processed or is dead.

        Returns:
            Numbers among the dead letters.
        """
        await self.stop()
        await eventually(self.is_over, seconds)
        buried = await self.buried()
        assert set(self.confirmed) - {*self.ran, *buried} == set()
        assert all(number % 10 == IS_REJECTED for number in buried)
        return buried

    def is_over(self):
        """Whether nothing is left."""
        try:
            return all(self.house.books.of(queue).is_empty() for queue in self.queues)
        except (redis.RedisError, LookupError):  # the servers are busy with each other
            return False

    async def buried(self):
        """Numbers of the dead letters."""
        return [json.loads(letter.fields[b"payload"])["number"] async for letter in self.app.dead_letters.list()]
