"""The time of Redis, as far as this process can know it without asking."""

from streamq.core.clock import Clock


class RedisClock:
    """Wall-clock decisions (is it expired, is it due?) follow the clock of Redis, which all workers share.

    Args:
        clock: this machine's.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset: float | None = None  # Redis's wall clock less our monotonic one, in seconds

    def another(self) -> "RedisClock":
        """A clock that has heard nothing yet, beside the same one of this machine."""
        return RedisClock(self._clock)

    def heard(self, now_ms: int) -> None:
        """Redis has just said what time it is."""
        self._offset = now_ms / 1000 - self._clock.monotonic()

    def now_ms(self) -> int:
        """Milliseconds since the epoch; by this machine's clock until Redis has spoken."""
        if self._offset is None:
            return round(self._clock.time() * 1000)
        return round((self._clock.monotonic() + self._offset) * 1000)

    def latest_ms(self, tolerance: float) -> int:
        """The latest time Redis can have without a jump; 0 before it has spoken.

        Args:
            tolerance: seconds.
        """
        return 0 if self._offset is None else self.now_ms() + round(tolerance * 1000)
