"""What may be said about a message beside its payload, and what of it makes no sense. Pure."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from streamq.core.config import DURABILITIES, LEVELS, Durability, Level
from streamq.core.errors import InvalidMessage


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What may be said about a message beside its payload.

    Args:
        priority: level inside the queue: critical, high, normal or low.
        delay: seconds until it is due, by the clock of Redis.
        delay_until: when it is due, instead of ``delay``.
        max_retries: retries after the first run.
        timeout: seconds one run may take.
        expires: seconds, or the time, after which it is not run any more.
        correlation_id: ties together the messages of one case.
        created_by: who publishes; the host's name by default.
        headers: values of your own, and trace context.
        idempotency_key: a second message with the same key is not accepted for ``idempotency_window``.
        message_id: an id of your own; repeating it within ``seen_window`` adds nothing.
        durable: what is waited for: memory, replica or fsync; as the queue says by default.
    """

    priority: Level = "normal"
    delay: float | timedelta | None = None
    delay_until: datetime | None = None
    max_retries: int | None = None
    timeout: float | timedelta | None = None
    expires: float | timedelta | datetime | None = None
    correlation_id: str | None = None
    created_by: str | None = None
    headers: Mapping[str, Any] | None = None
    idempotency_key: str | None = None
    message_id: str | None = None
    durable: Durability | None = None


_SURROGATE = re.compile("[\ud800-\udfff]")
MOST = 10**9  # seconds, about 30 years; or retries
OPTION_NAMES = tuple(field.name for field in dataclasses.fields(Options))


def check_options(options: Options) -> None:
    """Refuse what makes no sense.

    Raises:
        InvalidMessage: it names the option and what would be right.
    """
    _check_choice("priority", options.priority, LEVELS)
    if options.durable is not None:
        _check_choice("durable", options.durable, DURABILITIES)
    if options.delay is not None and options.delay_until is not None:
        raise InvalidMessage("give delay or delay_until, not both")
    for name in ("delay", "timeout", "expires"):
        value = getattr(options, name)
        if value is not None and not (name == "expires" and isinstance(value, datetime)):
            _check_duration(name, value)
    retries: Any = options.max_retries
    if retries is not None and not (isinstance(retries, int) and 0 <= retries < MOST):
        raise InvalidMessage(f"max_retries {retries!r} should be a number, 0 or more")
    once: Any = options.idempotency_key
    if once is not None and not (isinstance(once, str) and 0 < len(once) <= 512 and not _SURROGATE.search(once)):
        raise InvalidMessage("an idempotency key has 1 to 512 characters that UTF-8 can write")
    for name in ("delay_until", "expires"):
        value = getattr(options, name)
        if isinstance(value, datetime) and value.tzinfo is None:
            raise InvalidMessage(f"{name} {value} needs a time zone, like datetime.now(UTC)")
    if not isinstance(options.delay_until, datetime | None):
        raise InvalidMessage(f"delay_until {options.delay_until!r} should be a datetime; delay takes seconds")


def _check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise InvalidMessage(f"{name} {value!r} should be one of {', '.join(choices)}")


def _check_duration(name: str, value: Any) -> None:
    seconds = in_seconds(value)
    if not (isinstance(seconds, int | float) and 0 <= seconds < MOST):
        raise InvalidMessage(f"{name} {value!r} should be seconds or a timedelta: 0 or more, and less than 30 years")


def in_seconds(value: float | timedelta | None) -> float | None:
    """A duration in seconds."""
    return value.total_seconds() if isinstance(value, timedelta) else value


def as_delta(value: float | timedelta) -> timedelta:
    """A duration as a timedelta."""
    return value if isinstance(value, timedelta) else timedelta(seconds=value)
