"""``streamq publish``: put messages into a queue."""

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamq.cli.options import ConfigPath, RedisUrl, duration, queue_name, scoped, session_from
from streamq.cli.output import Format, Output
from streamq.cli.run import FAILURE, UNREACHABLE, USAGE, command

if TYPE_CHECKING:
    from streamq.cli.sending import Line
    from streamq.session import Session

option = scoped("PUBLISH")


class Priority(enum.StrEnum):
    """The levels inside a queue, the most urgent first."""

    CRITICAL = "critical"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class Durability(enum.StrEnum):
    """What a publish waits for."""

    MEMORY = "memory"
    REPLICA = "replica"
    FSYNC = "fsync"


QueueName = Annotated[str, typer.Argument(parser=queue_name, metavar="QUEUE", help="Where to, like email_queue.")]
TypeName = Annotated[
    str | None, typer.Argument(metavar="TYPE", help="Names the handler; may be left out where the payload does.")
]
Json = Annotated[str | None, option("--json", help="The payload: a JSON object.")]
File = Annotated[
    Path | None, option("--file", help="Publish each line of a file, a JSON object each; - reads from stdin.")
]
Delay = Annotated[
    float | None, option("--delay", parser=duration, metavar="DURATION", help="Time until it is due: 5m.")
]
Level = Annotated[Priority, option("--priority", help="Level inside the queue.")]
Count = Annotated[int, option("--count", min=1, help="Publish it so many times, with an id of its own each.")]
MaxRetries = Annotated[
    int | None, option("--max-retries", min=0, help="Retries after the first run; default: as configured.")
]
Timeout = Annotated[
    float | None, option("--timeout", parser=duration, metavar="DURATION", help="Time limit of one run: 30s.")
]
Expires = Annotated[
    float | None, option("--expires", parser=duration, metavar="DURATION", help="Time until it is of no use: 1h.")
]
IdempotencyKey = Annotated[
    str | None, option("--idempotency-key", help="A second message with the same key is not accepted for a day.")
]
CorrelationId = Annotated[str | None, option("--correlation-id", help="Ties together the messages of one case.")]
MessageId = Annotated[
    str | None, option("--message-id", help="An id of your own; sent again within 5 minutes it changes nothing.")
]

Durable = Annotated[
    Durability | None,
    option("--durable", help="Wait until a replica has it, or the disk of Redis; default: as configured."),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(command(publish))


async def publish(
    queue: QueueName, type: TypeName = None, json: Json = None, file: File = None, delay: Delay = None,
    priority: Level = Priority.NORMAL, count: Count = 1, max_retries: MaxRetries = None, timeout: Timeout = None,
    expires: Expires = None, idempotency_key: IdempotencyKey = None, correlation_id: CorrelationId = None,
    message_id: MessageId = None, durable: Durable = None, output: Output = Format.TABLE, config: ConfigPath = None,
    redis_url: RedisUrl = None,
) -> None:  # fmt: skip
    """Publish a message, or many, and print a receipt for each.

    A receipt says that the message lies in Redis: its id, its queue, and whether it was there before. With --durable
    the exit code 1 says that it does, but may not survive there.
    No app and no handler is needed to publish.

    Example: streamq publish email_queue send_welcome_email --json '{"recipient": "ada@example.org"}' --delay 5m

    Example: streamq publish search_index_queue index_page --file pages.jsonl
    """
    from streamq.cli.sending import Sender, of_file, repeated
    from streamq.core.options import Options

    _check(json, file, count, unique=bool(message_id or idempotency_key))
    options = Options(
        priority=priority.value, delay=delay, max_retries=max_retries, timeout=timeout, expires=expires,
        idempotency_key=idempotency_key, correlation_id=correlation_id, message_id=message_id,
        durable=durable.value if durable is not None else None,
    )  # fmt: skip
    payload = None if file is not None else _payload(json, type)
    async with session_from(config, redis_url) as session:
        await _say_when_new(session, queue)
        lines = of_file(file, type) if file is not None else repeated(payload, count)
        with Sender(session.publisher, queue, options, output, total=count if file is None else None) as sender:
            async for block in lines:
                if not await sender.send(block):
                    break
    _end(sender.problems, unknown=sender.unknown, alone=file is None and count == 1)


def _check(json: str | None, file: Path | None, count: int, *, unique: bool) -> None:
    """Refuse options that cannot go together."""
    if file is not None and json is not None:
        raise typer.BadParameter("give --json for one payload or --file for many, not both")
    if file is not None and count > 1:
        raise typer.BadParameter("--count repeats one payload; with --file there is one message a line")
    if unique and (file is not None or count > 1):
        raise typer.BadParameter(
            "--message-id and --idempotency-key are for one message; leave --file and --count away"
        )


def _payload(json: str | None, type: str | None) -> bytes:
    from streamq.cli.sending import payload_of

    if json is None and type is None:
        raise typer.BadParameter("say what to publish: a TYPE, and usually --json '{...}' or --file PATH")
    try:
        return payload_of((json or "{}").encode(errors="surrogateescape"), type)
    except ValueError as error:
        raise typer.BadParameter(f"--json: {error}") from None


async def _say_when_new(session: "Session", queue: str) -> None:
    """A queue needs no announcement, so a misspelt one would come into being in silence."""
    if queue not in session.settings.config.queues and queue not in await session.inspector.names():
        from difflib import get_close_matches

        near = get_close_matches(queue, session.settings.config.queues, n=1, cutoff=0.75)
        hint = f"; did you mean {near[0]}?" if near else ""
        typer.echo(f"note: {queue} is a new queue, not in the configuration{hint}", err=True)


def _end(problems: "list[tuple[Line, Exception]]", *, unknown: bool, alone: bool) -> None:
    """Exit with what the problems deserve; they have been told."""
    from streamq.core.errors import InvalidMessage, MessageTooLarge

    if not problems:
        return
    only: Any = problems[0][1]
    if alone and isinstance(only, InvalidMessage) and not isinstance(only, MessageTooLarge):
        raise typer.Exit(USAGE)
    raise typer.Exit(UNREACHABLE if unknown else FAILURE)
