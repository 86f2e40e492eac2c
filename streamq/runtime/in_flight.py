"""What this worker holds of one queue: a slot for each delivery, from its fetch until Redis has its outcome."""

import asyncio
import contextlib
from collections.abc import Iterator

from streamq.core.config import Level
from streamq.core.message import Delivery


class InFlight:
    """The deliveries of one queue in this process, and the room that is left.

    Args:
        slots: how many there may be at once.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.taken = 0  # deliveries that ever got a slot
        self.claimed = False  # the next free slot is for a reclaim: under a backlog, fetches would take every one
        self._held: dict[tuple[Level, str], Delivery] = {}
        self._reserved = 0
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._held)

    @property
    def free(self) -> int:
        """Slots that are neither taken nor promised to a read that is going on."""
        return self.slots - len(self._held) - self._reserved

    @property
    def fetchable(self) -> int:
        """Slots that a fetch may fill."""
        return self.free - self.claimed

    def deliveries(self) -> list[Delivery]:
        """What is held now. Safe to call from another thread: one call into C copies the values."""
        return list(self._held.values())

    def take(self, delivery: Delivery) -> bool:
        """Give a delivery its slot.

        Returns:
            False when the same entry runs here already: it came back to us, so only its token is new.
        """
        held = self._held.get(delivery.key)
        if held is not None:
            held.token, held.lost, held.proven_at = delivery.token, False, delivery.proven_at
            return False
        self._held[delivery.key] = delivery
        self.taken += 1
        return True

    def drop(self, delivery: Delivery) -> None:
        """Free the slot of a delivery."""
        if self._held.get(delivery.key) is delivery:
            del self._held[delivery.key]
            self._changed.set()

    @contextlib.contextmanager
    def reserve(self, wanted: int) -> Iterator[int]:
        """Promise free slots to a read, for as long as it goes on.

        Args:
            wanted: how many at most.

        Yields:
            How many were free.
        """
        count = max(0, min(wanted, self.free))
        self._reserved += count
        try:
            yield count
        finally:
            self._reserved -= count
            self._changed.set()

    async def changed(self) -> None:
        """Wait until a slot becomes free, or a promise ends."""
        self._changed.clear()
        await self._changed.wait()

    def poke(self) -> None:
        """Let whoever waits for a change look again."""
        self._changed.set()

    async def empty(self) -> None:
        """Wait until nothing is held."""
        while self._held:
            await self.changed()
