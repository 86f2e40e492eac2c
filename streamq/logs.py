"""Logs: what happened, with the ids it happened to; no payload and no secret, ever.

Readable on a terminal, a JSON object a line otherwise. Always on stderr: stdout is for data.
"""

import logging
import re
import sys
from collections.abc import MutableMapping, Sequence
from typing import Any

import msgspec
import structlog

from streamq.core import events
from streamq.core.config import QueueConfig
from streamq.core.context import current_message
from streamq.core.failure import scrub
from streamq.core.message import Message
from streamq.core.outcome import Ack, DeadLetter, Release, Retry
from streamq.core.precautions import Finding
from streamq.core.registry import Registry

EventDict = MutableMapping[str, Any]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def configure(level: str = "info", style: str | None = None) -> None:
    """Send streamq's logs and those of the standard library to stderr, in one form.

    Args:
        level: the least level that is written.
        style: `console` or `json`; None chooses by whether stderr is a terminal.
    """
    style = style or ("console" if sys.stderr.isatty() else "json")
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _add_message,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _tame,
    ]
    # Tracebacks without local variables: those hold payloads and keys.
    if style == "console":
        renderer: Any = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        exceptions: list[Any] = []
    else:
        renderer = structlog.processors.JSONRenderer(serializer=_to_json)
        exceptions = [structlog.processors.format_exc_info]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level.upper()),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *exceptions, renderer, _scrubbed],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def ensure_stderr() -> None:
    """Keep stdout free for data when nobody has configured structlog: an app that uses streamq as a library."""
    if not structlog.is_configured():
        structlog.configure(
            processors=[
                structlog.contextvars.merge_contextvars,
                _add_message,
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                _tame,
                structlog.dev.ConsoleRenderer(
                    colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
                ),
                _scrubbed,
            ],
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
            wrapper_class=structlog.make_filtering_bound_logger("INFO"),
        )


def logger_for(message: Message) -> Any:
    """The logger behind ``ctx.log``."""
    return structlog.get_logger("streamq.handler").bind(**_ids(message))


def tell_start(registry: Registry, queues: Sequence[QueueConfig], consumer: str, redis: str) -> None:
    """Say what a worker serves, and what it will only hold for others.

    Args:
        registry: its handlers.
        queues: what it serves.
        consumer: its name.
        redis: where; without a password.
    """
    log = structlog.get_logger("streamq")
    for config in queues:
        types = registry.types(config.name)
        log.info("serving", queue=config.name, types=types, slots=config.max_consumers, worker=consumer, redis=redis)
        if not types:
            log.warning(
                "no handler here for this queue: its messages wait for a worker that has one",
                queue=config.name, handled_here=registry.queues(),
            )  # fmt: skip


def tell_findings(findings: Sequence[Finding]) -> None:
    """Say what is wrong with the server.

    Args:
        findings: what was found; good ones are not told.
    """
    log = structlog.get_logger("streamq")
    for finding in findings:
        if finding.status != "ok":
            say = log.error if finding.status == "fail" else log.warning
            say(finding.detail, fix=finding.cure)


class LogObserver:
    """Writes what operators want to know. Successes are routine: they are written at level debug only."""

    def __init__(self) -> None:
        self._log = structlog.get_logger("streamq")

    def __call__(self, event: events.Event) -> None:
        """Write one event."""
        match event:
            case events.Settled():
                self._settled(event)
            case events.Started():
                self._log.debug(
                    "started", queue=event.queue, id=event.message_id, type=event.type, attempt=event.attempt
                )
            case events.Reclaimed():
                self._log.warning(
                    "took over from a worker that vanished",
                    queue=event.queue, taken=event.taken, suspects=event.suspects, dead=event.dead,
                )  # fmt: skip
            case events.LeaseLost():
                text = "lease lost: another worker runs this message, or its entry was deleted"
                self._log.warning(text, queue=event.queue, id=event.message_id)
            case events.Vanished():
                self._log.error(
                    "messages vanished: somebody deleted or trimmed their entries",
                    queue=event.queue, count=event.count, fix=f"streamq audit {event.queue}",
                )  # fmt: skip
            case events.LoopBlocked():
                self._log.warning(
                    "the event loop is blocked: no other handler goes on",
                    queue=event.queue, by=event.by, **({"id": event.message_id} if event.message_id else {}),
                    fix="make the handler a plain function: it runs in a thread; or use executor='process'",
                )  # fmt: skip
            case events.RedisUnavailable(back=True):
                self._log.info("Redis is back", queue=event.queue, role=event.role)
            case events.RedisUnavailable():
                self._log.error(
                    "Redis unavailable, trying again", queue=event.queue, role=event.role, error=event.error
                )
            case events.Noticed():
                self._log.warning(
                    event.text, queue=event.queue, **({"id": event.message_id} if event.message_id else {})
                )
            case _:
                pass

    def _settled(self, event: events.Settled) -> None:
        log = self._log.bind(
            queue=event.queue, id=event.message_id, type=event.type, seconds=round(event.duration, 3)
        )  # fmt: skip
        if not event.applied:
            log.info("outcome discarded: the lease was lost")
            return
        match event.outcome:
            case Ack(dropped=True):
                log.info("dropped")
            case Ack():
                log.debug("done")
            # Type and place of an error, not its message: that is made by the handler, and may hold what it was given.
            # The dead letter keeps it: `streamq dlq show ID`.
            case Retry(why=why, delay_ms=delay, retry_count=count, error=error, fingerprint=place):
                log.warning(str(why), after=delay / 1000, retry_count=count, error=place or _kind(error))
            case DeadLetter(reason=reason, error=error, fingerprint=place):
                log.error("dead letter", reason=str(reason), error=place or _kind(error))
            case Release():
                log.info("released")


def _ids(message: Message) -> dict[str, Any]:
    ids = {"queue": message.queue, "id": message.id, "type": message.type, "attempt": message.retry_count + 1}
    if message.metadata.correlation_id is not None:
        ids["correlation_id"] = message.metadata.correlation_id
    return ids


def _add_message(_: Any, __: str, event: EventDict) -> EventDict:
    """Bind the ids of the message whose handler is running, into whatever it logs by whatever logger."""
    message = current_message.get()
    if message is not None:
        for name, value in _ids(message).items():
            event.setdefault(name, value)
    return event


def _kind(error: str) -> str:
    return error.partition(":")[0]


def _tame(_: Any, __: str, event: EventDict) -> EventDict:
    """Control characters are shown, not sent: a type or an error text must not write to an operator's terminal."""
    for name, value in event.items():
        if isinstance(value, str) and name != "exception":
            event[name] = _CONTROL.sub(lambda found: repr(found[0])[1:-1], value)
    return event


def _scrubbed(_: Any, __: str, line: Any) -> str:
    """The finished line without what looks like a credential, wherever in it that stands."""
    return scrub(str(line))


def _to_json(event: EventDict, **_: Any) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()
