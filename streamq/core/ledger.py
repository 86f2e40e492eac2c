"""The law: what came in and did not go out must lie there. Pure arithmetic on one moment of a queue."""

from collections.abc import Mapping
from typing import NamedTuple

from streamq.core.config import LEVELS, Level

ENTERED = ("accepted", "replayed")
LEFT = ("done", "dropped", "dead", "cancelled", "evicted", "purged", "written_off")


class LevelMoment(NamedTuple):
    """One stream of a queue at one moment.

    Attributes:
        length: entries in it, undelivered and pending.
        entries_added: entries ever added to it, as Redis counts.
        pending: entries in flight.
        oldest_ready_ms: when its oldest undelivered entry was added; None when there is none.
        oldest_pending_ms: the same for its oldest pending entry.
        consumers: names known to the group.
    """

    length: int
    entries_added: int
    pending: int
    oldest_ready_ms: int | None
    oldest_pending_ms: int | None
    consumers: int


class Moment(NamedTuple):
    """A whole queue at one moment, read in one step.

    Attributes:
        now_ms: when, by the clock of Redis.
        delayed: messages that wait to become due.
        bodies: packed entries of those; always as many.
        counters: the ledger.
        levels: the four streams.
    """

    now_ms: int
    delayed: int
    bodies: int
    counters: Mapping[str, int]
    levels: Mapping[Level, LevelMoment]

    @property
    def length(self) -> int:
        """Entries in the four streams."""
        return sum(level.length for level in self.levels.values())

    @property
    def pending(self) -> int:
        """Entries in flight."""
        return sum(level.pending for level in self.levels.values())

    @property
    def foreign(self) -> int:
        """Entries that others added with a plain XADD."""
        return sum(max(0, self.levels[level].entries_added - self._added(level)) for level in LEVELS)

    @property
    def imbalance(self) -> int:
        """What came in, less what went out, less what lies there: messages that left outside the protocol."""
        entered = sum(self.counters.get(name, 0) for name in ENTERED) + self.foreign
        left = sum(self.counters.get(name, 0) for name in LEFT)
        return entered - left - self.length - self.delayed

    @property
    def body_imbalance(self) -> int:
        """Packed entries without a due time, less due times without an entry."""
        return self.bodies - self.delayed

    @property
    def deleted_streams(self) -> list[Level]:
        """Levels whose stream was deleted since: Redis forgot that entries were ever added."""
        return [level for level in LEVELS if self.levels[level].entries_added < self._added(level)]

    def _added(self, level: Level) -> int:
        return self.counters.get(f"added:{level}", 0)
