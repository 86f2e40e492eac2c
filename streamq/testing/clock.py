"""A clock that stands still until a test turns it."""


class VirtualClock:
    """Both clocks of ``streamq.core.clock``, turned by hand.

    Args:
        now: wall clock to begin with, seconds since the epoch.
    """

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._wall = now
        self._steady = 0.0

    def time(self) -> float:
        """Wall clock, seconds since the epoch."""
        return self._wall

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        return self._steady

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self._wall += seconds
        self._steady += seconds

    def step(self, seconds: float) -> None:
        """Set the wall clock alone, as an operator or NTP would."""
        self._wall += seconds
