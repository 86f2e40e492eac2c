"""The only place of ``core`` that reads the time; everything else is handed it."""

import time
from datetime import UTC, datetime
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


def rfc3339(seconds: float) -> str:
    """Write a wall-clock time the way ``metadata`` carries it.

    Args:
        seconds: seconds since the epoch.

    Returns:
        RFC 3339 in UTC with milliseconds, like ``2026-11-22T10:00:00.123Z``.
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
