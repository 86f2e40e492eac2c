"""How long to wait before the next try. Pure: the caller brings the randomness."""

from collections.abc import Callable
from random import random

JITTER = 0.2  # +-20 %: messages that failed together do not come back together


def retry_delay(
    retry_count: int, *, base: float, exponential: bool, cap: float, rng: Callable[[], float] = random
) -> float:
    """Seconds before the next run of a message whose handler failed.

    Args:
        retry_count: retries made so far (0 before the first retry).
        base: seconds before the first retry.
        exponential: double the wait each time; otherwise always ``base``.
        cap: the longest wait in seconds, before jitter.
        rng: returns a number in [0, 1).

    Returns:
        Seconds, with +-20 % of jitter.
    """
    # The exponent is clamped first: 2.0 ** 1024 raises OverflowError, and a message may fail for years.
    wait = min(cap, base * 2.0 ** min(retry_count, 60)) if exponential else base
    return wait * (1 - JITTER + 2 * JITTER * rng())


def reconnect_delay(failures: int, *, rng: Callable[[], float] = random) -> float:
    """Seconds before a role that met an outage tries again: full jitter between 0.1 and 10 s.

    Args:
        failures: tries that failed in a row, at least 1.
        rng: returns a number in [0, 1).
    """
    ceiling: float = min(10.0, 0.1 * 2.0 ** min(failures, 10))
    return 0.1 + (ceiling - 0.1) * rng()
