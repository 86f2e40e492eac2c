"""The only place of ``core`` that reads the time; everything else is handed it."""

import time
from typing import Protocol


class Clock(Protocol):
    """Where a role gets its time from. Tests hand in one that they turn by hand."""

    def time(self) -> float:
        """Wall clock, seconds since the epoch: for what is stored or compared with what others stored."""

    def monotonic(self) -> float:
        """Seconds that never step back: for intervals inside this process."""


class SystemClock:
    """The clocks of the operating system."""

    def time(self) -> float:
        """As ``time.time``."""
        return time.time()

    def monotonic(self) -> float:
        """As ``time.monotonic``."""
        return time.monotonic()
