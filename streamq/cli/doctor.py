"""``streamq doctor``: is everything as a worker needs it, and if not, what to do."""

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from streamq.cli.options import AppName, ConfigPath, RedisUrl, scoped, settings_from
from streamq.cli.output import Format, Output, show, shown
from streamq.cli.run import FAILURE, UNREACHABLE, command
from streamq.core.precautions import Finding

if TYPE_CHECKING:
    from streamq.settings import Settings

option = scoped("DOCTOR")

COLOURS = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(command(doctor))


async def doctor(
    queue: Annotated[
        list[str] | None, option("--queue", "-q", help="A queue that is served here; default: all that were used.")
    ] = None,
    app: AppName = None,
    output: Output = Format.TABLE,
    config: ConfigPath = None,
    redis_url: RedisUrl = None,
) -> None:
    """Check Redis, the configuration, the queues and the app; name the cure for what is wrong.

    Each line is ok, warn (it works, until a bad day) or fail (it does not). Exits with 1 when anything fails, with 69
    when Redis cannot be reached. Nothing is changed.

    Example: streamq doctor --queue email_queue --app workers:app
    """
    settings = settings_from(config, redis_url)
    findings = []
    async for finding in _findings(settings, queue or [], app):
        findings.append(finding)
        if output is Format.TABLE:
            _say(finding)
    if output is not Format.TABLE:
        show([finding._asdict() for finding in findings], output)
    if any(finding.check == "redis" and finding.status == "fail" for finding in findings):
        raise typer.Exit(UNREACHABLE)
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(FAILURE)


async def _findings(settings: "Settings", queues: Sequence[str], app: str | None) -> AsyncIterator[Finding]:
    from streamq.cli.examine import handlers, queue_findings, server_findings, settings_findings
    from streamq.core.errors import RedisUnavailable
    from streamq.session import open_session

    try:
        async with open_session(settings) as session:
            await session.connections.execute("PING")
            async for finding in server_findings(session):
                yield finding
            async for finding in queue_findings(session, queues):
                yield finding
    except RedisUnavailable as error:
        cure = "start it, name another with --redis-url, or `streamq redis start` one for development"
        yield Finding("redis", "fail", f"{settings.redis_url_origin}: {error}", cure)
    for finding in (*settings_findings(settings), handlers(app)):
        yield finding


def _say(finding: Finding) -> None:
    status = typer.style(f"{finding.status:5}", fg=COLOURS[finding.status])
    typer.echo(f"{status} {finding.check:15} {shown(finding.detail)}")
    if finding.cure is not None:
        typer.echo(f"{'':21} -> {shown(finding.cure)}")
