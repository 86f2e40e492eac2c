"""The blocking side of a queue: one connection that fetches, and a way to wake it."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any

from streamq.core.config import LEVELS, Level
from streamq.core.errors import RedisUnavailable
from streamq.core.message import Delivery, delivery_from
from streamq.store.connection import Connections, redis_errors
from streamq.store.keys import QueueKeys

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
        self._client = connections.reader()
        self._client_id: int | None = None
        self._node: Any = None  # of a Cluster
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
        await self._note_connection()
        started = time.monotonic()
        ms = max(1, round(block * 1000))
        streams = self._keys.streams
        found = await self._read("COUNT", 1, "BLOCK", ms, "STREAMS", *streams, *(">" for _ in streams))
        if not found and time.monotonic() - started < min(EMPTY_PAUSE, block / 2):
            await asyncio.sleep(EMPTY_PAUSE)
        return found

    async def wake(self) -> None:
        """End a wait that is going on; it returns what it has. Best effort: BLOCK ends by itself soon after."""
        if self._client_id is not None:
            with contextlib.suppress(RedisUnavailable):
                await self._connections.unblock(self._client_id, self._node)

    async def reset(self) -> None:
        """Forget the connection after an error; the next read opens another."""
        self._client_id = None
        with contextlib.suppress(RedisUnavailable), redis_errors():
            await self._client.aclose()

    async def aclose(self) -> None:
        """Close its connection for good."""
        await self._connections.drop_reader(self._client)

    async def _note_connection(self) -> None:
        """Remember which connection is going to wait; a slot of a Cluster may have moved since the last time."""
        with redis_errors():
            node = await self._connections.node_of(self._client, self._keys.normal)
            if self._client_id is None or node != self._node:
                there = {} if node is None else {"target_nodes": node}
                self._client_id = await self._client.execute_command("CLIENT", "ID", **there)
                self._node = node

    async def _read(self, *options: Any) -> list[Delivery]:
        await self._connections.leave_old_master(self._client)
        sent_at = time.monotonic()
        with redis_errors():
            reply = await self._client.execute_command(
                "XREADGROUP", "GROUP", self._group, self._consumer, *options
            )  # fmt: skip
        found = [
            delivery_from(self._queue, self._level_of[stream], entry, fields)
            for stream, entries in _streams(reply)
            for entry, fields in entries
            if fields is not None
        ]
        for delivery in found:
            delivery.proven_at = sent_at  # at the earliest: the reply may have lain in the socket of a busy process
        return found


def _streams(reply: Any) -> Sequence[tuple[bytes, list[Any]]]:
    """RESP2 answers with a list of pairs, RESP3 with a map."""
    if not reply:
        return ()
    return list(reply.items()) if isinstance(reply, dict) else reply
