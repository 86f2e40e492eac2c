"""Reading replies: the shapes of both protocol versions, and numbers that somebody else may have written."""

import re
from typing import Any

_NUMBER = re.compile(rb"-?[0-9]{1,18}")
_COUNTER = re.compile(rb"[0-9]{1,16}")


def number(raw: bytes | None) -> int | None:
    """A whole number that Redis could count with; None for anything else."""
    return int(raw) if raw is not None and _NUMBER.fullmatch(raw) else None


def counter(raw: bytes | None) -> int:
    """A count or a time in milliseconds; whatever is not plain digits counts as 0, as in the scripts."""
    return int(raw) if raw is not None and _COUNTER.fullmatch(raw) else 0


def text(value: Any) -> str:
    """What is bytes in one protocol version and text in another."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def pairs(reply: Any) -> list[tuple[Any, Any]]:
    """The pairs of a map, be it one or a flat list."""
    if isinstance(reply, dict):
        return list(reply.items())
    return list(zip(reply[::2], reply[1::2], strict=True))


def member(reply: Any, name: str) -> str:
    """A member of a map, as text."""
    return next(text(value) for key, value in pairs(reply) if text(key) == name)


def scores(reply: Any) -> list[tuple[bytes, float]]:
    """Members of a sorted set with their scores, be they pairs or a flat list."""
    nested = bool(reply) and isinstance(reply[0], list | tuple)
    return [(name, float(score)) for name, score in (reply if nested else pairs(reply))]


def seconds(reply: Any) -> float:
    """The reply to TIME, as seconds since the epoch."""
    whole, micros = reply
    return int(whole) + int(micros) / 1_000_000
