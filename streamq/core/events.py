"""What happened, for those who watch: logs, metrics, traces. With no observer nothing is built or called."""

from collections.abc import Callable

import msgspec

from streamq.core.outcome import Outcome


class Event(msgspec.Struct, frozen=True, gc=False):
    """Something that happened to a queue."""

    queue: str


class Published(Event, frozen=True):
    """Messages were offered to Redis."""

    accepted: int
    duplicates: int
    refused: int


class Fetched(Event, frozen=True):
    """Entries were handed to this worker."""

    count: int


class Started(Event, frozen=True):
    """A handler begins."""

    message_id: str
    type: str
    attempt: int
    waited_ms: int | None  # from its creation by the publisher's clock; None when it does not say


class Settled(Event, frozen=True):
    """Redis has the outcome of a delivery."""

    message_id: str
    type: str | None
    outcome: Outcome
    duration: float  # seconds in the handler; 0 when it never started
    applied: bool  # False: the lease was lost and the outcome discarded


class Reclaimed(Event, frozen=True):
    """Entries of vanished workers were taken over."""

    taken: int
    suspects: int
    dead: int


class Promoted(Event, frozen=True):
    """Delayed messages became due."""

    count: int


class LeaseLost(Event, frozen=True):
    """A message that runs here is no longer ours: another worker took it over, or somebody deleted its entry."""

    message_id: str


class Vanished(Event, frozen=True):
    """Somebody deleted entries of messages in flight: what they held is gone."""

    count: int


class LoopBlocked(Event, frozen=True):
    """The event loop has not turned for seconds: whatever ``by`` names should run in a thread or a process.

    Told from another thread while it is so.
    """

    by: str  # the type of a message, or the name of a coroutine that is no handler
    message_id: str | None = None


class RedisUnavailable(Event, frozen=True):
    """A role cannot reach Redis and will try again; ``role`` says which, ``back`` that it is over."""

    role: str
    error: str
    failures: int
    back: bool = False


class Noticed(Event, frozen=True):
    """Something an operator should know; ``text`` says what and what to do."""

    text: str
    message_id: str | None = None


Observer = Callable[[Event], None]


class Observers:
    """Who is told. Routine events, several a message, are built only if somebody wants them: ask ``routine`` first."""

    def __init__(self) -> None:
        self.routine: tuple[Observer, ...] = ()
        self._all: tuple[Observer, ...] = ()

    def add(self, observer: Observer, *, routine: bool = True) -> None:
        """Tell an observer from now on. It must be quick and must not raise.

        Args:
            observer: called with each event, on the event loop, on the thread that keeps the leases, or on one that
                publishes without a loop.
            routine: also of what happens to every message; otherwise only of failures and of what is rare.
        """
        self._all += (observer,)
        if routine:
            self.routine += (observer,)

    def notify(self, event: Event) -> None:
        """Tell everybody of something rare."""
        for observer in self._all:
            observer(event)

    def notify_routine(self, event: Event) -> None:
        """Tell those who want to know of every message."""
        for observer in self.routine:
            observer(event)
