"""Cluster only: dead letters on their way from a queue's slot to the common stream. Any worker moves them on."""

from streamq.runtime.lane import Lane
from streamq.store.across import PAGE, move
from streamq.store.connection import Connections
from streamq.store.keys import Keyspace

EVERY = 1.0  # seconds


class Mover:
    """Moves one queue's dead letters.

    Args:
        lane: the queue.
        connections: how to reach Redis.
        keyspace: how keys are spelled.
    """

    def __init__(self, lane: Lane, connections: Connections, keyspace: Keyspace) -> None:
        self._lane, self._connections, self._keyspace = lane, connections, keyspace

    async def run(self) -> None:
        """Move what there is about once a second, until the worker is quiet."""
        pause = EVERY
        while not await self._lane.lifecycle.pause(pause):
            moved = await move(self._connections, self._keyspace, self._lane.queue)
            pause = 0.0 if moved == PAGE else EVERY
