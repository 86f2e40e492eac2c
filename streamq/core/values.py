"""How the value of one configuration key is written, read and shown. Strict: a refusal says what would be right."""

import math
import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, Literal

from msgspec import Struct

LABEL = "[A-Za-z0-9._:-]{1,64}"  # a prefix of keys, a consumer group
HARD_MAX_SIZE = 1024 * 1024  # bytes of an entry, whatever its queue says

_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}  # the largest first: it is the shortest to read
_BYTES = {"MiB": 1024 * 1024, "KiB": 1024, "B": 1}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_SIZE = re.compile(r"([0-9]{1,15})(B|KiB|MiB)")
# Only what is short and plain is quoted back. Anything else may be a secret that went to the wrong place.
_QUOTABLE = re.compile(r"[A-Za-z0-9_ .%+-]{0,32}")


class Secret(str):
    """Text that a log, a traceback or a ``repr`` must not show. It is a ``str`` to whoever uses it on purpose."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


class Key(Struct, frozen=True):
    """One key of the configuration: how its value is written and what it means."""

    kind: Literal["duration", "size", "count", "flag", "choice", "label", "url"]
    doc: str
    least: float = 0.001  # seconds: less is zero in Redis, where BLOCK 0 means for ever
    choices: tuple[str, ...] = ()
    optional: bool = False  # may be null, which means "not said"

    @property
    def most(self) -> float:
        """The largest value of a key that measures something."""
        return {"duration": 3650.0 * 86400, "size": HARD_MAX_SIZE, "count": 1_000_000_000}[self.kind]


def parse_value(key: Key, raw: object) -> Any:
    """Turn ``raw``, as a user wrote it, into the value of ``key`` (seconds, bytes, int, bool or str).

    Raises:
        ValueError: the text says what is wrong and what would be right, and quotes nothing that may be secret.
    """
    if raw is None and key.optional:
        return None
    if key.kind in _MEASURES:
        parse, write = _MEASURES[key.kind]
        return _within(key, parse(raw), write)
    match key.kind, raw:
        case "flag", bool():
            return raw
        case "choice", str() if raw in key.choices:
            return raw
        case "label", str() if re.fullmatch(LABEL, raw):
            return raw
        case "url", str() if "://" in raw:  # what else makes a URL is the store's business
            return Secret(raw)
    shown = "this text" if key.kind == "url" and isinstance(raw, str) else show(raw)
    raise ValueError(f"{shown} is not usable, expected {_expected(key)}")


def format_value(key: Key, value: Any) -> Any:
    """Return ``value`` as a user would write it in YAML."""
    return value if value is None or key.kind not in {"duration", "size"} else _MEASURES[key.kind][1](value)


def parse_duration(value: object) -> float:
    """Return the seconds that ``value`` means.

    Args:
        value: text such as ``500ms`` ``30s`` ``5m`` ``1h`` ``1d``, or a number of seconds.

    Raises:
        ValueError: it is neither, or negative, or not finite. The text says what would be right.
    """
    seconds = -1.0
    if isinstance(value, str) and (found := _DURATION.fullmatch(value)):
        number, unit = float(found[1]), found[2]
        seconds = number / 1000 if unit == "ms" else number * _SECONDS[unit]  # x * 0.001 would round once more
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = _as_float(value)
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{show(value)} is no duration, expected one such as 500ms, 30s, 5m, 1h or 1d")
    return abs(seconds)  # -0.0 is 0


def format_duration(seconds: float) -> str:
    """Return the shortest text that :func:`parse_duration` turns into exactly these seconds (below 10**15)."""
    for unit, factor in (_SECONDS if seconds >= 1 else {"ms": 0.001}).items():
        text = f"{round(seconds / factor)}{unit}"
        if seconds and parse_duration(text) == seconds:
            return text
    return f"{Decimal(repr(seconds)).normalize():f}s"  # never 1e-07s


def parse_size(value: object) -> int:
    """Return the bytes that ``value`` means.

    Args:
        value: text such as ``256KiB`` ``1MiB`` ``100B``, or a whole number of bytes.

    Raises:
        ValueError: it is neither, or negative. The text says what would be right.
    """
    if isinstance(value, str) and (found := _SIZE.fullmatch(value)):
        return int(found[1]) * _BYTES[found[2]]
    if type(value) is int and value >= 0:
        return value
    raise ValueError(f"{show(value)} is no size, expected one such as 256KiB or 1MiB")


def format_size(size: int) -> str:
    """Return the shortest text that :func:`parse_size` turns into exactly these bytes."""
    unit = next(unit for unit in _BYTES if unit == "B" or (size and size % _BYTES[unit] == 0))
    return f"{size // _BYTES[unit]}{unit}"


def show(value: object) -> str:
    """Return ``value`` as an error may quote it: never a text that could be a secret."""
    match value:
        case str():
            return repr(value) if _QUOTABLE.fullmatch(value) else "this text"
        case bool() | None:
            return {True: "true", False: "false", None: "null"}[value]
        case int() | float():
            return str(value) if abs(value) < 1e18 else "this number"  # str refuses to write out a huge int
        case dict():
            return "a mapping"
        case _:
            return "a list"


def one_of(names: Iterable[str]) -> str:
    """Return "a, b or c"."""
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


def _parse_count(value: object) -> int:
    if type(value) is int:
        return value
    raise ValueError(f"{show(value)} is no count, expected a whole number such as 5")


_MEASURES: dict[str, tuple[Callable[[object], Any], Callable[[Any], str]]] = {
    "duration": (parse_duration, format_duration),
    "size": (parse_size, format_size),
    "count": (_parse_count, str),
}


def _within(key: Key, value: Any, write: Callable[[Any], str]) -> Any:
    if value < key.least:
        raise ValueError(f"{write(value)} is too little, expected at least {write(key.least)}")
    if value > key.most:
        raise ValueError(f"{write(value)} is too much, expected at most {write(key.most)}")
    return value


def _expected(key: Key) -> str:
    match key.kind:
        case "flag":
            return "true or false"
        case "choice":
            return one_of(key.choices) if len(key.choices) > 1 else f"{key.choices[0]} (others come later)"
        case "label":
            return f"text that matches {LABEL}"
        case _:
            return "a URL such as redis://HOST:PORT/DB"


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an int of 400 digits
        return math.inf
