"""What the roles of one queue share."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from streamq.core.config import QueueConfig, WorkerConfig
from streamq.core.events import Observers
from streamq.runtime.in_flight import InFlight
from streamq.runtime.lifecycle import Lifecycle
from streamq.runtime.redis_clock import RedisClock
from streamq.runtime.supervisor import Supervisor
from streamq.store.streams import QueueStore

#: Seconds after its deadline for which a message is still kept: time for a handler to clean up.
GRACE = 5.0


@dataclass(slots=True, kw_only=True)
class Lane:
    """One queue in one worker.

    Args:
        config: of the queue, with ``signing`` resolved.
        limits: what holds for the whole worker.
        consumer: our name in the group.
        store: the queue in Redis.
        in_flight: what we hold of it.
        clock: the time of Redis.
        lifecycle: of the worker.
        observers: who is told.
        supervisor: keeps the roles running.
    """

    config: QueueConfig
    limits: WorkerConfig
    consumer: str
    store: QueueStore
    in_flight: InFlight
    clock: RedisClock
    lifecycle: Lifecycle
    observers: Observers
    supervisor: Supervisor
    last_poll: float = 0.0  # monotonic: when the queue was last read without an error
    last_beat: float = field(default=float("-inf"))  # monotonic: when our last good beat was sent
    silent: Sequence[str] = ()  # consumers that our last beat found silent
    trust: float = field(init=False)  # seconds for which a good beat proves that what we hold is ours

    def __post_init__(self) -> None:
        self.trust = min(6.0, self.config.lease / 2)

    @property
    def queue(self) -> str:
        """The queue's name."""
        return self.config.name

    @property
    def beat_interval(self) -> float:
        """Seconds between two beats: often enough for three to be lost within a lease."""
        return min(self.limits.beat_interval, self.config.lease / 4)
