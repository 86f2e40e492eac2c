"""The blocking side of a queue: one connection that fetches, and a way to wake it."""

import asyncio
import contextlib
import time
from typing import Any

from redis import exceptions

from streamq.core.config import LEVELS, Level
from streamq.core.errors import RedisUnavailable
from streamq.core.message import Delivery, delivery_from
from streamq.store.connection import Connections
from streamq.store.keys import QueueKeys
from streamq.store.outages import redis_errors
from streamq.store.wire import Wire

EMPTY_PAUSE = 0.02  # seconds to wait when a server that should have blocked did not (fakeredis, some proxies)


class QueueReader:
    """Reads the entries of one queue into the hands of one consumer.

    Args:
        connections: how to reach Redis.
        queue: the queue's name.
        keys: its keys.
        group: its consumer group.
        consumer: who reads.

    A read is never cancelled: a reply on its way would hand over entries that nobody sees until their lease ends.
    """

    def __init__(self, connections: Connections, queue: str, keys: QueueKeys, group: str, consumer: str) -> None:
        self._connections = connections
        self._queue, self._keys = queue, keys
        self._group, self._consumer = group, consumer
        self._line = connections.reader(keys.normal)
        self._wire: Wire | None = None  # the one that waited last
        self._client_id: int | None = None  # of that one
        self._level_of = {keys.stream(level).encode(): level for level in LEVELS}

    async def fetch(self, level: Level, count: int) -> list[Delivery]:
        """Take what is ready on one level, without waiting.

        Args:
            level: which stream.
            count: how many at most.
        """
        return await self._read("COUNT", count, "STREAMS", self._keys.stream(level), ">")

    async def wait(self, block: float) -> list[Delivery]:
        """Wait until something arrives on any level, and take the first of each.

        Args:
            block: seconds to wait at most.
        """
        await self._note_wire()
        started = time.monotonic()
        ms = max(1, round(block * 1000))
        streams = self._keys.streams
        found = await self._read("COUNT", 1, "BLOCK", ms, "STREAMS", *streams, *(">" for _ in streams))
        if not found and time.monotonic() - started < min(EMPTY_PAUSE, block / 2):
            await asyncio.sleep(EMPTY_PAUSE)
        return found

    async def wake(self) -> None:
        """End a wait that is going on; it returns what it has. Best effort: BLOCK ends by itself soon after."""
        if self._wire is not None and self._client_id is not None:
            with contextlib.suppress(RedisUnavailable):
                await self._connections.unblock(self._client_id, self._wire.address)

    async def reset(self) -> None:
        """Forget the connection after an error; the next read opens another, and where the queue is by then."""
        self._line.close()
        if self._connections.clustered:
            with contextlib.suppress(RedisUnavailable):
                await self._connections.execute("EXISTS", self._keys.normal)  # learns of slots that have moved

    async def aclose(self) -> None:
        """Close its connection for good."""
        await self._connections.drop_reader(self._line)

    async def _note_wire(self) -> None:
        """Remember which connection is going to wait."""
        with redis_errors():
            wire = await self._line.open()
            if wire is not self._wire:
                self._client_id = await self._line.send("CLIENT", "ID")
                self._wire = wire

    async def _read(self, *options: Any) -> list[Delivery]:
        self._connections.leave_replaced(self._line)
        sent_at = time.monotonic()
        with redis_errors():
            command = ("XREADGROUP", "GROUP", self._group, self._consumer, *options)
            try:
                reply = await self._line.send(*command)
            except exceptions.AskError:  # the queue's slot has moved
                await self.reset()
                reply = await self._line.send(*command)
        found = [
            delivery_from(self._queue, self._level_of[stream], entry, fields)
            for stream, entries in reply or ()
            for entry, fields in entries
            if fields is not None
        ]
        for delivery in found:
            delivery.proven_at = sent_at  # at the earliest: the reply may have lain in the socket of a busy process
        return found
