"""What can be configured: every key with its meaning, its limits and its default, and what cannot go together.

Pure: ``streamq.settings`` reads the file and the environment and builds these structs. Times are float seconds and
sizes are int bytes. The structs do not check themselves, so a test may build any queue it likes; what a user wrote
goes through :func:`parse_value` (one value) and :meth:`Config.problems` (what cannot be combined).
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Literal, get_type_hints

from msgspec import Struct, field

from streamq.core.backoff import JITTER
from streamq.core.errors import ConfigError
from streamq.core.values import (
    HARD_MAX_SIZE,
    Key,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
    parse_value,
    show,
)

__all__ = [
    "DURABILITIES",
    "HARD_MAX_SIZE",
    "LEVELS",
    "Config",
    "Durability",
    "ErrorRules",
    "Key",
    "Level",
    "LevelConfig",
    "QueueConfig",
    "WorkerConfig",
    "check_queue_name",
    "format_duration",
    "format_size",
    "keys_of",
    "parse_duration",
    "parse_size",
    "parse_value",
    "resolve_queue",
]

Level = Literal["critical", "high", "normal", "low"]
ErrorClassName = Literal["transient", "permanent", "retryable", "non_retryable"]

Durability = Literal["memory", "replica", "fsync"]

LEVELS: tuple[Level, ...] = ("critical", "high", "normal", "low")
DURABILITIES: tuple[Durability, ...] = ("memory", "replica", "fsync")
RESERVED_NAMES = ("dead_letter", "names")
QUEUE_NAME = "[a-z0-9][a-z0-9._-]{0,63}"


class QueueConfig(Struct, frozen=True, kw_only=True):
    """Everything a queue is told. The defaults here are those of a queue of level ``normal``."""

    name: str
    priority: Annotated[
        Level,
        Key("choice", "level of the queue: default max_consumers and ack_timeout, and its turn", choices=LEVELS),
    ] = "normal"
    consumer_group: Annotated[str, Key("label", "the one consumer group of the queue")] = "streamq"
    max_consumers: Annotated[
        int, Key("count", "handlers that run at once in one worker process; default: max_workers of the level", 1)
    ] = 5
    max_length: Annotated[int, Key("count", "messages waiting, delayed and in flight together; 0 = no limit", 0)] = (
        10_000
    )
    on_full: Annotated[
        Literal["reject", "block", "drop_oldest"],
        Key("choice", "what publishing to a full queue does", choices=("reject", "block", "drop_oldest")),
    ] = "reject"
    block_timeout: Annotated[float, Key("duration", "how long on_full: block waits before QueueFull")] = 30.0
    durable: Annotated[
        Durability,
        Key(
            "choice",
            "what a publish waits for: memory (Redis has it), replica (one has it, too), fsync (it is on the disk)",
            choices=DURABILITIES,
        ),
    ] = "memory"
    lease: Annotated[float, Key("duration", "idle time after which an entry may be taken over", 1)] = 30.0
    ack_timeout: Annotated[float, Key("duration", "time limit of a handler; default: timeout of the level")] = 1800.0
    max_retries: Annotated[int, Key("count", "retries after the first run: 3 = four runs", 0)] = 3
    retry_delay: Annotated[float, Key("duration", "wait before the first retry; 0 = at once", 0)] = 1.0
    exponential_backoff: Annotated[
        bool,
        Key("flag", "false: always retry_delay, true: doubled each time; default: true unless retry_delay is given"),
    ] = True
    max_retry_delay: Annotated[float, Key("duration", "the longest wait of exponential_backoff")] = 600.0
    delivery: Annotated[
        Literal["at_least_once"], Key("choice", "the delivery guarantee", choices=("at_least_once",))
    ] = "at_least_once"
    signing: Annotated[
        Literal["required", "optional"] | None,
        Key(
            "choice",
            "whether unsigned messages are refused; default: required once a signing key is configured, else optional",
            choices=("required", "optional"),
            optional=True,
        ),
    ] = None
    max_size: Annotated[int, Key("size", "bytes of all fields of an entry, at most 1MiB", 1)] = 256 * 1024
    unknown_type_timeout: Annotated[
        float, Key("duration", "how long a message waits for a worker that knows its type; 0 = not at all", 0)
    ] = 3600.0
    unknown_key_timeout: Annotated[
        float, Key("duration", "how long a message waits for a worker that has its key; 0 = not at all", 0)
    ] = 600.0
    max_deliveries: Annotated[int, Key("count", "workers lost with a message before it is a dead letter", 1)] = 20
    max_age: Annotated[
        float | None, Key("duration", "messages created longer ago than this are expired; null = never", optional=True)
    ] = None
    healthy_below: Annotated[int, Key("count", "healthy while fewer messages wait", 1)] = 10_000
    healthy_pending_below: Annotated[int, Key("count", "healthy while fewer messages are in flight", 1)] = 1000

    def horizon(self) -> float:
        """Seconds for which a message may come back: all its retries, and a lease for each worker that it may lose."""
        retries, first, most = self.max_retries, self.retry_delay, self.max_retry_delay
        if not self.exponential_backoff:
            waits = retries * first
        else:
            growing = min(retries, 60)  # by then the delay is at its cap, whatever it began with
            waits = sum(min(most, first * 2.0**n) for n in range(growing)) + (retries - growing) * most
        return waits * (1 + JITTER) + self.max_deliveries * self.lease


class WorkerConfig(Struct, frozen=True, kw_only=True):
    """What holds for a whole worker, whichever queues it serves."""

    block: Annotated[float, Key("duration", "how long a read waits for a message")] = 2.0
    beat_interval: Annotated[float, Key("duration", "time between two beats; never more than lease/4")] = 2.5
    silent_after: Annotated[float, Key("duration", "a worker without a beat for so long is dead")] = 12.0
    drain_timeout: Annotated[float, Key("duration", "how long a stopping worker lets handlers end", 0)] = 25.0
    seen_window: Annotated[float, Key("duration", "how long a message id is remembered: a resend is dropped")] = 300.0
    idempotency_window: Annotated[float, Key("duration", "least time for which an idempotency key is kept")] = 86400.0


class LevelConfig(Struct, frozen=True, kw_only=True):
    """What a queue of one priority level gets unless it says otherwise."""

    priority: Annotated[int, Key("count", "number of the level: the smaller, the sooner", 1)]
    max_workers: Annotated[int, Key("count", "max_consumers of a queue of this level", 1)]
    timeout: Annotated[float, Key("duration", "ack_timeout of a queue of this level")]


DEFAULT_LEVELS: Mapping[Level, LevelConfig] = {
    "critical": LevelConfig(priority=1, max_workers=10, timeout=30.0),
    "high": LevelConfig(priority=2, max_workers=8, timeout=300.0),
    "normal": LevelConfig(priority=3, max_workers=5, timeout=1800.0),
    "low": LevelConfig(priority=4, max_workers=2, timeout=3600.0),
}


class ErrorRules(Struct, frozen=True):
    """What the user says about errors: by the name of the exception's type, then by words in it."""

    types: Mapping[str, ErrorClassName] = {}
    words: Mapping[str, ErrorClassName] = {}


class Problem(Struct, frozen=True):
    """Values that are sound alone and impossible together."""

    paths: tuple[tuple[str, ...], ...]  # the keys concerned; the first one that somebody wrote is to blame
    text: str


class Config(Struct, frozen=True, kw_only=True):
    """The whole configuration: ``config/queues.yaml`` with everything filled in.

    ``defaults`` holds what the user wrote there, parsed: a queue that is not in the file gets it from here.
    """

    redis_url: Annotated[str | None, Key("url", "where Redis is: redis://HOST:PORT/DB", optional=True)] = None
    prefix: Annotated[str, Key("label", "first part of every key in Redis")] = "queue"
    levels: dict[Level, LevelConfig] = field(default_factory=lambda: dict(DEFAULT_LEVELS))
    defaults: dict[str, Any] = field(default_factory=dict)
    queues: dict[str, QueueConfig] = field(default_factory=dict)
    worker: WorkerConfig = field(default_factory=WorkerConfig)
    errors: ErrorRules = field(default_factory=ErrorRules)

    def queue(self, name: str) -> QueueConfig:
        """Return what queue ``name`` is told; one that is not in the file gets the defaults.

        Raises:
            ConfigError: ``name`` cannot be the name of a queue, or is reserved.
        """
        if found := self.queues.get(name):
            return found
        return resolve_queue(check_queue_name(name), {}, self.defaults, self.levels)

    def problems(self) -> Iterator[Problem]:
        """Yield every combination that cannot work."""
        worker = self.worker
        if worker.beat_interval >= worker.silent_after:
            beat, silent = format_duration(worker.beat_interval), format_duration(worker.silent_after)
            text = f"a worker that beats every {beat} counts as dead after {silent}, expected a shorter beat_interval"
            yield Problem((("worker", "beat_interval"), ("worker", "silent_after")), text)
        for level, below in pairwise(LEVELS):
            if self.levels[level].priority >= self.levels[below].priority:
                text = f"{level} has to come before {below}, expected priority numbers that rise from critical to low"
                yield Problem(tuple(("queue_priorities", name, "priority") for name in (level, below)), text)
        # The queue that nobody wrote down, so it has no name: whoever publishes to a new name gets these values.
        unlisted = resolve_queue("", {}, self.defaults, self.levels)
        for queue in (*self.queues.values(), unlisted):
            yield from _queue_problems(queue)


def _queue_problems(queue: QueueConfig) -> Iterator[Problem]:
    if queue.exponential_backoff and queue.retry_delay > queue.max_retry_delay:
        keys = ("retry_delay", "max_retry_delay", "exponential_backoff")
        own, inherited = (("queues", queue.name, key) for key in keys), (("defaults", key) for key in keys)
        delay, most = format_duration(queue.retry_delay), format_duration(queue.max_retry_delay)
        wrong = f"retry_delay {delay} is longer than max_retry_delay {most}"
        yield Problem((*own, *inherited), f"{wrong}, expected at most {most}, or exponential_backoff: false")


def resolve_queue(
    name: str, own: Mapping[str, Any], defaults: Mapping[str, Any], levels: Mapping[Level, LevelConfig]
) -> QueueConfig:
    """Fill in what queue ``name`` does not say itself: from ``defaults``, then its level, then the built-in values.

    Args:
        name: the queue; not checked here.
        own: parsed values of the queue's own keys.
        defaults: parsed values that any queue inherits.
        levels: the priority levels.
    """
    said = {**defaults, **own}
    level = levels[said.get("priority", "normal")]
    said.setdefault("max_consumers", level.max_workers)
    said.setdefault("ack_timeout", level.timeout)
    # Who names a delay means that delay; who names none gets the usual growing one.
    said.setdefault("exponential_backoff", "retry_delay" not in said)
    return QueueConfig(name=name, **said)


def check_queue_name(name: str) -> str:
    """Return ``name`` if a queue may be called so, else raise ConfigError."""
    if name in RESERVED_NAMES:
        raise ConfigError(f"{name!r} is reserved, expected another name for the queue")
    if not re.fullmatch(QUEUE_NAME, name):
        raise ConfigError(f"{show(name)} is no name for a queue, expected {QUEUE_NAME}")
    return name


@cache
def keys_of(struct: type[Struct]) -> dict[str, Key]:
    """Return the keys that a user may write for ``struct``, in the order in which they are declared."""
    hints = get_type_hints(struct, include_extras=True).items()
    return {name: hint.__metadata__[0] for name, hint in hints if hasattr(hint, "__metadata__")}
