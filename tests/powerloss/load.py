"""What happens until the power goes: publishers that wait for the disk, others that do not, and a worker."""

import asyncio
import contextlib
import dataclasses

from streamq import Context, DurabilityUnconfirmed, Reject, Retry, StreamQ
from streamq.core.config import Config, QueueConfig, WorkerConfig
from streamq.settings import Settings

QUEUE = "work"
KINDS = ("good", "good", "good", "late", "again", "bad")
CONFIG = Config(
    queues={
        QUEUE: QueueConfig(
            name=QUEUE, lease=8.0, max_retries=2, retry_delay=0.05, exponential_backoff=False, max_length=0,
            max_consumers=10,
        )
    },
    worker=WorkerConfig(block=0.2, beat_interval=0.2, silent_after=0.8, drain_timeout=0.0),
)  # fmt: skip


@dataclasses.dataclass
class History:
    """What everybody saw, by message id.

    Attributes:
        offered: the number that its payload carries.
        confirmed: published, and the disk had confirmed it.
        accepted: published, and Redis had confirmed it.
        succeeded: its handler came to a good end: from here on it may be gone.
    """

    offered: dict[str, int] = dataclasses.field(default_factory=dict)
    confirmed: set[str] = dataclasses.field(default_factory=set)
    accepted: set[str] = dataclasses.field(default_factory=set)
    succeeded: set[str] = dataclasses.field(default_factory=set)


class Load:
    """Publishers and a worker on one server.

    Args:
        url: the server's.
        history: what they see.
        random: what they do.
        confirm: called when the disk has confirmed.
    """

    def __init__(self, url, history, random, confirm=None):
        self.history, self._random, self._confirm = history, random, confirm
        self._over, self._confirmed = asyncio.Event(), asyncio.Event()
        self.app = StreamQ(settings=Settings(config=CONFIG, redis_url=url, log_level="critical"))
        self._add_handlers()

    async def run(self, cut):
        """Do everything for a while, mostly until the disk has confirmed something, then `cut` and drop the rest."""
        async with self.app:
            roles = [self._durable() for _ in range(3)] + [self._quick() for _ in range(2)]
            tasks = [asyncio.ensure_future(role) for role in (*roles, self.app.worker(QUEUE).run())]
            if self._random.random() < 0.9:
                await asyncio.wait_for(self._confirmed.wait(), 30)
            ended, _ = await asyncio.wait(
                tasks, timeout=self._random.uniform(0, 0.8), return_when=asyncio.FIRST_COMPLETED
            )
            cut()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for task in ended:
                await task

    async def drain(self, empty):
        """Work until `empty` says that nothing is left."""
        worker = self.app.worker(QUEUE)
        task = asyncio.ensure_future(worker.run())
        async with asyncio.timeout(30):
            while not (empty() or task.done()):
                await self._pause(0.05)
        worker.stop()
        await task

    async def repeat(self, ids):
        """Publish again what was confirmed. Returns how many were not known any more."""
        async with self.app:
            offers = (self._publish(message_id, "good", durable="fsync") for message_id in ids)
            return sum(not receipt.duplicate for receipt in await asyncio.gather(*offers))

    def _publish(self, message_id, kind, **options):
        payload = {"type": kind, "n": self.history.offered[message_id]}
        return self.app.publish(QUEUE, payload, message_id=message_id, **options)

    def _next(self):
        number = len(self.history.offered)
        message_id = f"m{number}"
        self.history.offered[message_id] = number
        kind = self._random.choice(KINDS)
        options = {"delay": self._random.choice((0.05, 0.2, 0.5))} if kind == "late" else {}
        options["priority"] = self._random.choice(("critical", "high", "normal", "low"))
        return message_id, self._publish, (message_id, kind), options

    async def _durable(self):
        while True:
            many = [self._next() for _ in range(self._random.randint(1, 8))]
            offers = (publish(*args, durable="fsync", **options) for _, publish, args, options in many)
            results = await asyncio.gather(*offers, return_exceptions=True)
            for (message_id, *_), result in zip(many, results, strict=True):
                if isinstance(result, DurabilityUnconfirmed):
                    self.history.accepted.add(message_id)
                elif isinstance(result, BaseException):
                    raise result
                else:
                    self.history.confirmed.add(message_id)
            if self.history.confirmed:
                self._confirm()
                self._confirmed.set()
            await self._pause(self._random.uniform(0, 0.1))

    async def _quick(self):
        while True:
            message_id, publish, args, options = self._next()
            await publish(*args, **options)
            self.history.accepted.add(message_id)
            await self._pause(self._random.uniform(0, 0.01))

    def _add_handlers(self):
        async def good(n: int, ctx: Context):
            await self._pause(self._random.uniform(0, 0.02))
            self.history.succeeded.add(ctx.message.id)

        async def again(n: int, ctx: Context):
            if ctx.attempt == 1:
                raise Retry(reason="the first time")
            self.history.succeeded.add(ctx.message.id)

        async def bad(n: int):
            raise Reject("never")

        self.app.handler(QUEUE, type="good")(good)
        self.app.handler(QUEUE, type="late")(good)
        self.app.handler(QUEUE, type="again")(again)
        self.app.handler(QUEUE, type="bad")(bad)

    async def _pause(self, seconds):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), seconds)
