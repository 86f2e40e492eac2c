"""What may be said about a message, and what is refused before anything is written."""

import math
from datetime import UTC, datetime, timedelta

import pytest

from streamq.core.errors import InvalidMessage
from streamq.core.options import OPTION_NAMES, Options, as_delta, check_options, in_seconds

NEARLY = 10**9 - 1
MOMENT = datetime(2026, 11, 22, 10, tzinfo=UTC)


def test_the_options_of_the_interface():
    """All of them, and nothing is said unless somebody says it."""
    assert set(OPTION_NAMES) == {
        "priority", "delay", "delay_until", "max_retries", "timeout", "expires", "correlation_id", "created_by",
        "headers", "idempotency_key", "message_id", "durable",
    }  # fmt: skip
    said = {name: getattr(Options(), name) for name in OPTION_NAMES}
    assert said.pop("priority") == "normal"
    assert set(said.values()) == {None}
    with pytest.raises(AttributeError):
        Options().delay = 5


@pytest.mark.parametrize(
    "said",
    [
        {},
        *({"priority": level} for level in ("critical", "high", "normal", "low")),
        *({"durable": level} for level in ("memory", "replica", "fsync")),
        *({name: value} for name in ("delay", "timeout", "expires")
          for value in (0, 0.5, NEARLY, timedelta(0), timedelta(days=1))),
        {"max_retries": 0},
        {"max_retries": NEARLY},
        {"delay_until": MOMENT},
        {"expires": MOMENT},
        {"idempotency_key": "k"},
        {"idempotency_key": "k" * 512},
    ],
    ids=str,
)  # fmt: skip
def test_what_may_be_said(said):
    """The limits themselves are allowed."""
    check_options(Options(**said))


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        *(({"priority": value}, "priority .* should be one of critical, high, normal, low") for value in
          ("urgent", "", None, 3, "High")),
        ({"delay": 1, "delay_until": MOMENT}, "delay or delay_until, not both"),
        ({"delay": 0, "delay_until": MOMENT}, "delay or delay_until, not both"),
        *(({name: value}, f"{name} .* should be seconds or a timedelta") for name in ("delay", "timeout", "expires")
          for value in (-1, -0.001, 10**9, math.inf, math.nan, timedelta(-1), timedelta(days=20_000), "5", "5s", [5])),
        *(({name: MOMENT}, f"{name} .* should be seconds or a timedelta") for name in ("delay", "timeout")),
        *(({"durable": value}, "durable .* should be one of memory, replica, fsync") for value in
          ("", "disk", 0, True, ["fsync"])),
        *(({"max_retries": value}, "max_retries .* should be a number, 0 or more") for value in
          (-1, 10**9, 2.5, 2.0, "2", timedelta(1))),
        ({"delay_until": datetime(2030, 1, 1)}, "delay_until .* needs a time zone"),  # noqa: DTZ001
        ({"expires": datetime(2030, 1, 1)}, "expires .* needs a time zone"),  # noqa: DTZ001
        ({"delay_until": 5}, "delay_until 5 should be a datetime"),
        ({"delay_until": "2030-01-01T00:00:00Z"}, "delay_until .* should be a datetime"),
        *(({"idempotency_key": value}, "1 to 512 characters") for value in ("", "k" * 513, 5, b"k")),
    ],
    ids=str,
)  # fmt: skip
def test_what_may_not_be_said(said, complaint):
    """The complaint names the option and what would be right."""
    with pytest.raises(InvalidMessage, match=complaint):
        check_options(Options(**said))


def test_durations():
    """Seconds and timedeltas are the same."""
    assert [in_seconds(value) for value in (None, 0, 1.5, timedelta(minutes=1))] == [None, 0, 1.5, 60.0]
    assert [as_delta(value) for value in (1.5, timedelta(minutes=1))] == [timedelta(seconds=1.5), timedelta(minutes=1)]
