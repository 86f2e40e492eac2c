"""The one place that spells a key. The plain key ``queue:NAME`` and the tag ``{queue:NAME}`` share a Cluster slot."""

from dataclasses import dataclass

from streamq.core.config import LEVELS, Level


@dataclass(frozen=True, slots=True)
class QueueKeys:
    """The keys of one queue. Scripts name them as they are named here."""

    critical: str
    high: str
    normal: str
    low: str
    delayed: str
    messages: str
    ledger: str
    seen_0: str
    seen_1: str
    workers: str
    dead: str

    def stream(self, level: Level) -> str:
        """The stream of a level."""
        return str(getattr(self, level))

    @property
    def streams(self) -> tuple[str, ...]:
        """The four streams, the most urgent first."""
        return tuple(self.stream(level) for level in LEVELS)


class Keyspace:
    """All keys below one prefix.

    Args:
        prefix: what every key begins with.
        clustered: dead letters take the way over their queue's own slot.
    """

    def __init__(self, prefix: str = "queue", *, clustered: bool = False) -> None:
        self.prefix = prefix
        self.clustered = clustered
        self.names = f"{prefix}:names"
        self.dead_letter = f"{prefix}:dead_letter"
        self.dead_letter_ledger = f"{{{prefix}:dead_letter}}:ledger"

    def queue(self, name: str) -> QueueKeys:
        """The keys of a queue."""
        tag = f"{{{self.prefix}:{name}}}"
        return QueueKeys(
            critical=f"{tag}:critical",
            high=f"{tag}:high",
            normal=f"{self.prefix}:{name}",
            low=f"{tag}:low",
            delayed=f"{tag}:delayed",
            messages=f"{tag}:delayed:messages",
            ledger=f"{tag}:ledger",
            seen_0=f"{tag}:seen:0",
            seen_1=f"{tag}:seen:1",
            workers=f"{tag}:workers",
            dead=f"{tag}:dead" if self.clustered else self.dead_letter,
        )

    def once(self, queue: str, key: str) -> str:
        """Where an idempotency key of a queue is remembered."""
        return f"{{{self.prefix}:{queue}}}:once:{key}"

    def moved(self, queue: str, entry: str, message_id: str) -> str:
        """Cluster: the mark that a dead letter has arrived at the common stream."""
        return f"{{{self.prefix}:dead_letter}}:moved:{queue}/{entry}/{message_id}"

    def replayed(self, queue: str, letter: str) -> str:
        """Cluster: the mark that a dead letter has arrived back at its queue."""
        return f"{{{self.prefix}:{queue}}}:replayed:{letter}"
