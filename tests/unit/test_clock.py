"""The time, and how it is written."""

import time

from streamq.core.clock import SystemClock


def test_the_system_clock_reads_both_clocks(monkeypatch):
    """What is stored comes from the wall clock, what is measured from the monotonic one."""
    monkeypatch.setattr(time, "time", lambda: 1.5)
    monkeypatch.setattr(time, "monotonic", lambda: 2.5)
    assert (SystemClock().time(), SystemClock().monotonic()) == (1.5, 2.5)
