"""``streamq delayed``: messages that wait to become due, or to be retried."""

import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamq.cli.look import QueueName
from streamq.cli.options import ConfigPath, RedisUrl, chosen_queues, scoped, session_from
from streamq.cli.output import Format, Output, moment, show, show_stream
from streamq.cli.run import NOT_FOUND, command, fail

if TYPE_CHECKING:
    from streamq.session import Session

option = scoped("DELAYED")

TABLE_ROWS = 100


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="Messages that wait: list them, cancel them.")
    group.command("list")(command(list_delayed))
    group.command()(command(cancel))
    app.add_typer(group, name="delayed")


async def list_delayed(
    queue: QueueName = None,
    limit: Annotated[
        int | None, option("--limit", min=1, help=f"How many at most; a table shows {TABLE_ROWS} unless told.")
    ] = None,
    output: Output = Format.TABLE,
    config: ConfigPath = None,
    redis_url: RedisUrl = None,
) -> None:
    """List messages that wait, the next one first: those published with a delay, and those to be retried.

    Example: streamq delayed list email_queue --limit 20
    """
    async with session_from(config, redis_url) as session:
        rows = _rows(session, await chosen_queues(session, queue), limit)
        columns = ("id", "queue", "due_at", "due_in_s", "type", "priority", "retry_count")
        await show_stream(rows, output, columns, most=limit or TABLE_ROWS, empty="nothing waits")


async def _rows(session: "Session", queues: list[str], limit: int | None) -> AsyncIterator[dict[str, Any]]:
    import msgspec

    left = limit
    for queue in queues:
        async for waiting in session.inspector.delayed(queue, left):
            left = None if left is None else left - 1
            due = waiting.due_ms / 1000
            times = {"due_at": moment(due), "due_in_s": round(due - time.time())}
            yield msgspec.structs.asdict(waiting) | times


async def cancel(
    queue: Annotated[str, typer.Argument(metavar="QUEUE", help="Where they wait.")],
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of the messages, as `publish` prints them.")],
    output: Output = Format.TABLE,
    config: ConfigPath = None,
    redis_url: RedisUrl = None,
) -> None:  # fmt: skip
    """Take messages back that still wait. What is due already cannot be cancelled any more.

    Exits with 4 when a message does not wait (any more); the others are cancelled nevertheless.

    Example: streamq delayed cancel email_queue msg_0193f0c2a1b27c3e9d5a6f7081920304
    """
    async with session_from(config, redis_url) as session:
        await chosen_queues(session, queue)
        names = await session.inspector.waiting_under(queue, dict.fromkeys(ids))
        members = [member for found in names.values() for member in found]
        words = await session.inspector.store(queue).cancel(members) if members else []
    fates = dict(zip(members, words, strict=True))
    rows: list[dict[str, Any]] = []
    for asked, found in names.items():
        rows += ({"id": member, "queue": queue, "cancelled": fates[member] == "OK"} for member in found)
        if not found:
            rows.append({"id": asked, "queue": queue, "cancelled": False})
    show(rows, output)
    gone = [row["id"] for row in rows if not row["cancelled"]]
    if gone:
        fail(f"not waiting in {queue} (due already, cancelled before, or never there): {', '.join(gone)}", NOT_FOUND)
