"""``streamq dlq``: messages that failed for good."""

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Self

import typer

from streamq.cli.letters import (
    Ids,
    Newer,
    Older,
    Queue,
    Type,
    Why,
    described,
    exported,
    filter_from,
    found_ids,
    pretty,
    report_missing,
)
from streamq.cli.look import confirm
from streamq.cli.options import ConfigPath, RedisUrl, queue_name, scoped, session_from
from streamq.cli.output import Format, JsonWriter, Output, show, show_stream
from streamq.cli.progress import Progress
from streamq.cli.run import FAILURE, NOT_FOUND, USAGE, command, fail

if TYPE_CHECKING:
    from streamq.replaying import Fate
    from streamq.session import Session
    from streamq.store.dead_letters import DeadLetter, Filter

option = scoped("DLQ")

TABLE_ROWS = 100
COLUMNS = ("dlq_id", "original_queue", "type", "reason", "retry_count", "failed_at", "error", "original_id")
NOTHING = "no dead letter matches"

Limit = Annotated[int | None, option("--limit", min=1, help="How many at most, the oldest first.")]
DryRun = Annotated[bool, option("--dry-run", help="Change nothing; tell what would happen.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="Dead letters: look at them, bring them back, let them go.")
    group.command("list")(command(list_letters))
    group.command("show")(command(show_letter))
    for function in (replay, purge, export):
        group.command()(command(function))
    app.add_typer(group, name="dlq")


async def list_letters(
    ids: Ids = None, queue: Queue = None, reason: Why = None, type: Type = None, older_than: Older = None,
    newer_than: Newer = None, limit: Limit = None, output: Output = Format.TABLE, config: ConfigPath = None,
    redis_url: RedisUrl = None,
) -> None:  # fmt: skip
    """List dead letters, the oldest first. JSON output has every field, the table a readable few.

    Example: streamq dlq list --queue email_queue --reason max_retries --newer-than 1d
    """
    which = filter_from(ids, queue, reason, type, older_than, newer_than)
    missing = set(which.ids)
    async with session_from(config, redis_url) as session:
        rows = _rows(session, which, limit, missing)
        most = limit or (len(which.ids) + TABLE_ROWS)
        await show_stream(rows, output, COLUMNS, most=most, empty=NOTHING)
    if limit is None:
        report_missing(missing)


async def _rows(
    session: "Session", which: "Filter", limit: int | None, missing: set[str]
) -> AsyncIterator[dict[str, Any]]:
    async for letter in session.dead_letters.list(which, limit=limit):
        missing -= found_ids(letter)
        yield described(letter)


async def show_letter(
    id: Annotated[str, typer.Argument(metavar="ID", help="The letter's id, or its message's.")],
    output: Output = Format.TABLE,
    config: ConfigPath = None,
    redis_url: RedisUrl = None,
) -> None:
    """Show one dead letter whole: why it died, its payload, its traceback.

    Example: streamq dlq show msg_0193f0c2a1b27c3e9d5a6f7081920304
    """
    async with session_from(config, redis_url) as session:
        letter = await session.dead_letters.get(id)
    if letter is None:
        fail(f"no such dead letter: {id} (replayed or purged already?)", NOT_FOUND)
    if output is Format.TABLE:
        typer.echo(pretty(letter))
    else:
        show([described(letter)], output)


async def replay(
    ids: Ids = None, queue: Queue = None, reason: Why = None, type: Type = None, older_than: Older = None,
    newer_than: Newer = None, limit: Limit = None,
    to: Annotated[
        str | None,
        option("--to", parser=queue_name, metavar="QUEUE", help="Publish them anew to another queue."),
    ] = None,
    rate: Annotated[float | None, option("--rate", min=0.1, help="So many a second at most.")] = None,
    force: Annotated[
        bool, option("--force", help="Also what was unreadable, or is signed by nobody we know: look at it first.")
    ] = False,
    dry_run: DryRun = False, output: Output = Format.TABLE, config: ConfigPath = None, redis_url: RedisUrl = None,
) -> None:  # fmt: skip
    """Bring dead letters back to their queues: the same bytes, with all their retries before them.

    Mend the cause first; what dies again comes back. Without a filter all are meant. A letter whose signature does
    not hold is refused. Exits with 1 when any was refused, with 4 when an ID is not there.

    Example: streamq dlq replay --queue email_queue --reason max_retries --rate 100

    Example: streamq dlq replay 1763807000000-0 --to email_retry_queue
    """
    which = filter_from(ids, queue, reason, type, older_than, newer_than)
    missing = set(which.ids)
    async with session_from(config, redis_url) as session:
        found = session.dead_letters.replay_matching(
            which, limit=limit, to=to, force=force, rate=rate, dry_run=dry_run
        )  # fmt: skip
        with _ReplayReport(output) as report, Progress("replaying") as progress:
            async for fate in found:
                missing -= {fate.dlq_id, fate.original_id}
                report.add(fate)
                progress.advance()
    if limit is None:
        report_missing(missing)
    if report.refused:
        raise typer.Exit(FAILURE)


class _ReplayReport:
    """What became of the letters: each as JSON, or a summary and those that were refused."""

    def __init__(self, form: Format) -> None:
        self._form, self._writer = form, JsonWriter(form)
        self._counts: Counter[tuple[str, str | None]] = Counter()
        self.refused: list[Fate] = []  # not more than a table shows

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Also after an error: what was brought back is back."""
        if self._form is not Format.TABLE:
            self._writer.close()
            return
        rows = [{"fate": fate, "letters": n, "why": why} for (fate, why), n in self._counts.most_common()]
        show(rows, self._form, empty=NOTHING)
        if self.refused:
            columns = ("dlq_id", "original_id", "queue", "reason", "why")
            typer.echo("refused:", err=True)
            show([{name: getattr(fate, name) for name in columns} for fate in self.refused], self._form)

    def add(self, fate: "Fate") -> None:
        """Take note of one."""
        import msgspec

        if self._form is not Format.TABLE:
            self._writer.write(msgspec.structs.asdict(fate))
        self._counts[fate.fate, fate.why] += 1
        if fate.fate == "refused" and len(self.refused) < TABLE_ROWS:
            self.refused.append(fate)


async def purge(
    ids: Ids = None, queue: Queue = None, reason: Why = None, type: Type = None, older_than: Older = None,
    newer_than: Newer = None, limit: Limit = None,
    yes: Annotated[bool, option("--yes", help="Do not ask.")] = False,
    dry_run: DryRun = False, output: Output = Format.TABLE, config: ConfigPath = None, redis_url: RedisUrl = None,
) -> None:  # fmt: skip
    """Delete dead letters for good. Asks first; export them if you may want them back.

    Example: streamq dlq purge --reason expired --older-than 30d --dry-run
    """
    which = filter_from(ids, queue, reason, type, older_than, newer_than)
    missing = set(which.ids)
    counts: Counter[tuple[str, str]] = Counter()
    meant: list[DeadLetter] = []
    async with session_from(config, redis_url) as session:
        async for letter in session.dead_letters.list(which, limit=limit):
            missing -= found_ids(letter)
            counts[letter.queue, letter.text("reason")] += 1
            meant.append(letter.slim())
        rows = [{"queue": name, "reason": why, "letters": n} for (name, why), n in sorted(counts.items())]
        show(rows, output, empty=NOTHING)
        if meant and not dry_run:
            confirm(f"Delete these {len(meant)} dead letters for good?", yes=yes)
            with Progress("purging", len(meant)) as progress:
                gone = await session.dead_letters.purge(meant, progress=progress.advance)
            typer.echo(f"{gone} purged" + (f", {len(meant) - gone} were gone already" * (gone < len(meant))), err=True)
    if limit is None:
        report_missing(missing)


async def export(
    ids: Ids = None, queue: Queue = None, reason: Why = None, type: Type = None, older_than: Older = None,
    newer_than: Newer = None, limit: Limit = None,
    file: Annotated[Path | None, option("--file", help="A new file to write to; default: stdout.")] = None,
    output: Output = Format.JSONL, config: ConfigPath = None, redis_url: RedisUrl = None,
) -> None:  # fmt: skip
    """Write dead letters as JSON lines, every field byte for byte: text where it is UTF-8, else {"base64": "..."}.

    Example: streamq dlq export --queue email_queue --file dead.jsonl
    """
    which = filter_from(ids, queue, reason, type, older_than, newer_than)
    missing, count = set(which.ids), 0
    async with session_from(config, redis_url) as session:
        target = _create(file) if file is not None else None
        writer = JsonWriter(Format.JSON if output is Format.JSON else Format.JSONL, target)
        with Progress("exporting") as progress:
            async for letter in session.dead_letters.list(which, limit=limit):
                missing -= found_ids(letter)
                writer.write(exported(letter))
                progress.advance()
                count += 1
        writer.close()
        if target is not None:
            target.close()
            typer.echo(f"{count} dead letters written to {file}", err=True)
    if limit is None:
        report_missing(missing)


def _create(path: Path) -> IO[bytes]:
    """A new file that nobody else may read: payloads are personal data more often than not."""
    import os

    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    except FileExistsError:
        fail(f"--file {path}: it exists already; name a new file", USAGE)
    except OSError as error:
        fail(f"--file {path}: {error.strerror}", FAILURE)
