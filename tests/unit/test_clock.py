"""The time, and how it is written."""

import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamq.core.clock import SystemClock, rfc3339
from streamq.core.codec import decode_metadata


def test_the_system_clock_reads_both_clocks(monkeypatch):
    """What is stored comes from the wall clock, what is measured from the monotonic one."""
    monkeypatch.setattr(time, "time", lambda: 1.5)
    monkeypatch.setattr(time, "monotonic", lambda: 2.5)
    assert (SystemClock().time(), SystemClock().monotonic()) == (1.5, 2.5)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_800_000_000, "2027-01-15T08:00:00.000Z"),
        (1_800_000_000.25, "2027-01-15T08:00:00.250Z"),
        (1_800_000_000.0009, "2027-01-15T08:00:00.000Z"),  # never later than it was
    ],
)
def test_times_are_written_in_utc_with_milliseconds(seconds, text):
    """RFC 3339 with a Z and three digits, whatever the zone of this machine."""
    assert rfc3339(seconds) == text


@given(st.integers(0, 4_000_000_000_000))
def test_what_is_written_is_read_back(milliseconds):
    """The decoder of metadata reads the same moment, to less than a millisecond."""
    raw = msgspec.json.encode({"created_at": rfc3339(milliseconds / 1000)})
    created = decode_metadata(raw).created_at
    assert created is not None
    assert abs(created.timestamp() * 1000 - milliseconds) <= 1
