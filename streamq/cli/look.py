"""``streamq queues``, ``stats``, ``workers``, ``audit``: how things stand."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamq.cli.options import (
    ConfigPath,
    RedisUrl,
    chosen_queues,
    duration,
    known_queues,
    scoped,
    session_from,
)
from streamq.cli.output import Format, Output, moment, show
from streamq.cli.run import FAILURE, command, run_async

if TYPE_CHECKING:
    from streamq.core.ledger import Moment
    from streamq.session import Session
    from streamq.store.audit import DeadBalance

stats_option = scoped("STATS")
audit_option = scoped("AUDIT")

QueueName = Annotated[str | None, typer.Argument(metavar="[QUEUE]", help="This one alone; default: all of them.")]

DEAD_LETTERS = "dead_letter"  # no queue can be called so
TERMS = ("accepted", "replayed", "done", "dropped", "dead", "cancelled", "evicted", "purged", "written_off")
DIAGNOSTICS = (
    "vanished", "orphan", "fenced", "late_ack", "suspect", "retried", "released", "snoozed", "held",
)  # fmt: skip
AUDIT_COLUMNS = ("queue", "imbalance", "foreign", *TERMS, "ready", "pending", "delayed")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for function in (queues, stats, workers, audit):
        app.command()(command(function))


async def queues(output: Output = Format.TABLE, config: ConfigPath = None, redis_url: RedisUrl = None) -> None:
    """List all queues: those of the configuration, and those that were ever used.

    A queue is healthy while few messages wait, few are in flight (healthy_below, healthy_pending_below) and a worker
    answers where there is work.

    Example: streamq queues
    """
    import msgspec

    from streamq.store.inspect import unhealthy

    async with session_from(config, redis_url) as session:
        rows = []
        for stats in await session.inspector.stats(await known_queues(session)):
            told = session.settings.config.queue(stats.queue)
            about = {
                "priority": told.priority,
                "consumer_group": told.consumer_group,
                "configured": stats.queue in session.settings.config.queues,
                "healthy": not unhealthy(stats, told),
            }
            rows.append(msgspec.structs.asdict(stats) | about)
    columns = ("queue", "priority", "ready", "pending", "delayed", "dead", "consumers", "healthy", "configured")
    show(rows, output, columns, empty="there is no queue yet: `streamq publish QUEUE TYPE` makes one")


def stats(
    queue: QueueName = None,
    watch: Annotated[bool, stats_option("--watch", help="Show it again and again, with rates, until Ctrl-C.")] = False,
    interval: Annotated[
        float, stats_option("--interval", parser=duration, metavar="DURATION", help="Time between two looks.")
    ] = 1.0,
    output: Output = Format.TABLE,
    config: ConfigPath = None,
    redis_url: RedisUrl = None,
) -> None:
    """Show how many messages are ready, in flight, delayed and dead, and how old the oldest are.

    ready: nobody has fetched it yet. pending: a worker runs it. delayed: it waits to become due, or to be retried.
    dead: it lies among the dead letters. consumers: workers that answer. accepted, done: ever since.

    Example: streamq stats email_queue --watch
    """
    if not watch:
        run_async(lambda: _stats_once(queue, output, config, redis_url))
        return
    from streamq.cli.watch import LEAST_INTERVAL, watch_stats

    if output is Format.JSON:
        raise typer.BadParameter("--watch never ends, so there is no array to close: use -o jsonl")
    if interval < LEAST_INTERVAL:
        raise typer.BadParameter(f"--interval: at least {LEAST_INTERVAL} s, to leave Redis some time for work")
    try:
        run_async(lambda: watch_stats(queue, interval, output, config, redis_url))
    except KeyboardInterrupt:  # the usual way to end it, and no failure
        raise typer.Exit(0) from None


async def _stats_once(queue: str | None, output: Format, config: ConfigPath, redis_url: RedisUrl) -> None:
    import msgspec

    async with session_from(config, redis_url) as session:
        found = await session.inspector.stats(await chosen_queues(session, queue))
    rows = [msgspec.structs.asdict(row) for row in found]
    show(rows, output, empty="there is no queue yet: `streamq publish QUEUE TYPE` makes one")


async def workers(
    queue: QueueName = None, output: Output = Format.TABLE, config: ConfigPath = None, redis_url: RedisUrl = None
) -> None:
    """List the workers of each queue: whether they answer, what they hold, what they can do.

    A worker says that it lives every few seconds. One that is silent for silent_after (12s) is dead: the others take
    over what it holds.

    Example: streamq workers email_queue
    """
    import msgspec

    async with session_from(config, redis_url) as session:
        rows: list[dict[str, Any]] = []
        for name in await chosen_queues(session, queue):
            for worker in await session.inspector.workers(name):
                started = moment(worker.started_ms / 1000) if worker.started_ms else None
                rows.append(msgspec.structs.asdict(worker) | {"started_at": started})
    columns = ("consumer", "queue", "alive", "beat_age_s", "pending", "slots", "types", "version", "started_at")
    show(rows, output, columns, empty="no worker has been here: start one with `streamq worker --queue QUEUE`")


async def audit(
    queue: QueueName = None,
    write_off: Annotated[
        bool,
        audit_option("--write-off", help="Book the differences as looked into: the next audit starts at 0."),
    ] = False,
    yes: Annotated[bool, audit_option("--yes", help="Do not ask.")] = False,
    output: Output = Format.TABLE,
    config: ConfigPath = None,
    redis_url: RedisUrl = None,
) -> None:
    """Prove that nothing was lost: what came in and did not go out must lie there.

    imbalance is accepted + replayed + foreign - done - dropped - dead - cancelled - evicted - purged - written_off,
    less what lies in the queue. Above 0, messages left outside the protocol (somebody deleted them); below 0, there
    are more than there should be. The row dead_letter does the same for the dead letters of all queues.

    Exits with 1 unless every imbalance is 0. Nothing is changed without --write-off.

    Example: streamq audit -o json
    """
    async with session_from(config, redis_url) as session:
        names = await chosen_queues(session, queue)
        rows = await _audit(session, names, whole=queue is None)
        if write_off and await _write_off(session, rows, yes=yes):
            rows = await _audit(session, names, whole=queue is None)
    show(rows, output, AUDIT_COLUMNS, empty="there is no queue yet")
    _alarms(rows)
    if any(row["imbalance"] or row["body_imbalance"] for row in rows):
        raise typer.Exit(FAILURE)


async def _audit(session: "Session", names: list[str], *, whole: bool) -> list[dict[str, Any]]:
    rows = [_queue_row(name, await session.auditor.queue(name)) for name in names]
    return [*rows, _dead_row(await session.auditor.dead_letters())] if whole else rows


def _queue_row(name: str, seen: "Moment") -> dict[str, Any]:
    counters = {term: seen.counters.get(term, 0) for term in (*TERMS, *DIAGNOSTICS)}
    return {
        "queue": name,
        "imbalance": seen.imbalance,
        "foreign": seen.foreign,
        **counters,
        "ready": seen.length - seen.pending,
        "pending": seen.pending,
        "delayed": seen.delayed,
        "body_imbalance": seen.body_imbalance,
        "deleted_streams": seen.deleted_streams,
    }


def _dead_row(balance: "DeadBalance") -> dict[str, Any]:
    """Seen from the dead letters: what died came in, and what was replayed went out."""
    known = {"dead": balance.dead, "replayed": balance.replayed, "purged": balance.purged}
    return {
        **dict.fromkeys(("queue", "imbalance", "foreign", *TERMS, *DIAGNOSTICS, "pending", "delayed"), 0),
        "queue": DEAD_LETTERS,
        "imbalance": balance.imbalance,
        **known,
        "written_off": balance.written_off,
        "ready": balance.length,
        "body_imbalance": 0,
        "deleted_streams": [],
    }


def _alarms(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        name = row["queue"]
        if row["deleted_streams"]:
            levels = ", ".join(row["deleted_streams"])
            typer.echo(
                f"ALARM {name}: somebody deleted the stream of level {levels}, with all that was in it", err=True
            )
        if row["body_imbalance"]:
            typer.echo(
                f"ALARM {name}: among the delayed messages there are {row['body_imbalance']:+} bodies for due times; "
                f"somebody changed {{…:{name}}}:delayed or {{…:{name}}}:delayed:messages by hand",
                err=True,
            )
        if row["imbalance"]:
            what = "are missing" if row["imbalance"] > 0 else "are more than there should be"
            cure = f"once you know why: streamq audit {'' if name == DEAD_LETTERS else name + ' '}--write-off"
            typer.echo(f"{name}: {abs(row['imbalance'])} messages {what}; {cure}", err=True)


async def _write_off(session: "Session", rows: list[dict[str, Any]], *, yes: bool) -> bool:
    """Book every difference. Returns whether anything was booked."""
    off = {row["queue"]: row["imbalance"] for row in rows if row["imbalance"]}
    if not off:
        typer.echo("nothing to write off", err=True)
        return False
    told = ", ".join(f"{name} {amount:+}" for name, amount in off.items())
    confirm(f"Write off {told}?", yes=yes)
    for name, amount in off.items():
        if name == DEAD_LETTERS:
            await session.auditor.write_off_dead_letters(amount)
        else:
            await session.auditor.write_off(name, amount)
    return True


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something that cannot be undone. Where nobody can answer, --yes must have said it."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter("this cannot be undone, and nobody is there to ask: add --yes")
    typer.confirm(question, abort=True, err=True)
