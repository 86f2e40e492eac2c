"""The books of all queues and of the dead letters: do they balance, and booking off what was looked into."""

from collections.abc import Sequence
from typing import NamedTuple

from streamq.core.ledger import Moment
from streamq.store.connection import Connections
from streamq.store.inspect import Inspector
from streamq.store.keys import Keyspace
from streamq.store.replies import counter

TRIES = 10  # reads until the dead letters balance: their books and their stream cannot be read in one step


class DeadBalance(NamedTuple):
    """The dead letters of all queues.

    Attributes:
        dead: messages that became dead letters, as the queues counted.
        replayed: those that went back.
        purged: those that were deleted.
        written_off: differences that somebody booked.
        length: those that lie there.
    """

    dead: int
    replayed: int
    purged: int
    written_off: int
    length: int

    @property
    def imbalance(self) -> int:
        """Dead letters that left outside the protocol; in a Cluster also those between the two steps of a replay."""
        return self.dead - self.replayed - self.purged - self.written_off - self.length


class Auditor:
    """Reads the books.

    Args:
        connections: how to reach Redis.
        keyspace: how keys are spelled.
        inspector: reads a queue in one step.
    """

    def __init__(self, connections: Connections, keyspace: Keyspace, inspector: Inspector) -> None:
        self._connections, self._keyspace, self._inspector = connections, keyspace, inspector

    async def queue(self, name: str) -> Moment:
        """One queue at one moment."""
        return await self._inspector.moment(name)

    async def dead_letters(self) -> DeadBalance:
        """All dead letters. Read again when it does not balance: a letter may have moved between two reads."""
        balance = await self._dead_letters()
        for _ in range(TRIES):
            if not balance.imbalance:
                break
            balance = await self._dead_letters()
        return balance

    async def write_off(self, queue: str, amount: int) -> None:
        """Book a difference of a queue.

        Args:
            queue: which.
            amount: its imbalance, negative when there is more than there should be.
        """
        await self._connections.execute("HINCRBY", self._keyspace.queue(queue).ledger, "written_off", amount)

    async def write_off_dead_letters(self, amount: int) -> None:
        """Book a difference of the dead letters."""
        await self._connections.execute("HINCRBY", self._keyspace.dead_letter_ledger, "written_off", amount)

    async def _dead_letters(self) -> DeadBalance:
        names = await self._inspector.names()
        moments = [await self._inspector.moment(name) for name in names]
        purged, written_off = await self._connections.execute(
            "HMGET", self._keyspace.dead_letter_ledger, "purged", "written_off"
        )
        return DeadBalance(
            dead=sum(moment.counters.get("dead", 0) for moment in moments),
            replayed=sum(moment.counters.get("replayed", 0) for moment in moments),
            purged=counter(purged),
            written_off=int(written_off or 0),
            length=await self._lying(names),
        )

    async def _lying(self, names: Sequence[str]) -> int:
        streams = [self._keyspace.dead_letter]
        if self._keyspace.clustered:
            streams += [self._keyspace.queue(name).dead for name in names]
        return sum([int(await self._connections.execute("XLEN", stream)) for stream in streams])
