"""Looks at the law once a second, straight at the server: no proxy and no fault is between."""

import asyncio
import time
from pathlib import Path
from typing import NamedTuple

import redis

from streamq import StreamQ
from streamq.core.errors import StreamqError
from streamq.settings import load_settings
from tests.chaos.story import QUEUES
from tests.chaos.watch import Watch

DEAD = "queue:dead_letter"


class Sample(NamedTuple):
    """All queues at about one moment; each of them, and the dead letters, exactly at one.

    Attributes:
        at: seconds, monotonic.
        moments: by queue.
        letters: dead letters that were counted and do not lie there, or the other way round.
    """

    at: float
    moments: dict
    letters: int

    @property
    def left(self):
        """Messages that lie in the queues."""
        return sum(moment.length + moment.delayed for moment in self.moments.values())

    def total(self, counter):
        """A counter of the ledgers over all queues."""
        return sum(moment.counters.get(counter, 0) for moment in self.moments.values())

    def broken(self):
        """What does not hold, in words; empty when all does."""
        wrong = []
        for queue, moment in self.moments.items():
            if moment.imbalance:
                wrong.append(f"{queue}: imbalance {moment.imbalance}")
            if moment.body_imbalance:
                wrong.append(f"{queue}: {moment.body_imbalance} bodies too many among the delayed")
            if moment.deleted_streams:
                wrong.append(f"{queue}: deleted {', '.join(moment.deleted_streams)}")
            if moment.foreign:
                wrong.append(f"{queue}: {moment.foreign} entries that nobody counted")
        if self.letters:
            wrong.append(f"dead letters: imbalance {self.letters}")
        return wrong


class Ledger(Watch):
    """Takes samples until it is stopped.

    Args:
        url: of the server itself.
    """

    def __init__(self, url):
        super().__init__("ledger")
        self._url = url
        self.count, self.last, self.unanswered = 0, None, 0
        self.broken = []  # (at, words)

    def look(self):
        self.left()

    def left(self):
        """Take a sample if the server answers. Returns how many messages are left, as far as is known."""
        try:
            return self.take().left
        except (StreamqError, redis.RedisError, OSError):  # it was killed, or still reads its data
            self.unanswered += 1
            return None

    def take(self):
        """Take a sample now."""
        sample = asyncio.run(self._sample())
        self.count, self.last = self.count + 1, sample
        self.broken += [(sample.at, words) for words in sample.broken()]
        return sample

    async def _sample(self):
        settings = load_settings(redis_url=self._url, environ={"LOG_LEVEL": "error"}, start=Path("/"))
        async with StreamQ(settings=settings) as app:
            moments = {queue: await app.session.inspector.moment(queue) for queue in QUEUES}
        return Sample(time.monotonic(), moments, self._letters())

    def _letters(self):
        with redis.Redis.from_url(self._url, socket_timeout=5) as client, client.pipeline(transaction=True) as pipe:
            for queue in QUEUES:
                pipe.hmget(f"{{queue:{queue}}}:ledger", "dead", "replayed")
            pipe.hget(f"{{{DEAD}}}:ledger", "purged")
            pipe.xlen(DEAD)
            *queues, purged, length = pipe.execute()
        dead, replayed = (sum(int(row[number] or 0) for row in queues) for number in (0, 1))
        return dead - replayed - int(purged or 0) - length
