"""``streamq redis``: the embedded server of a project, for development."""

from typing import TYPE_CHECKING

import typer

from streamq.cli.options import ConfigPath, RedisUrl, settings_from
from streamq.cli.output import Format, Output, show
from streamq.cli.run import NOT_FOUND, command, fail

if TYPE_CHECKING:
    from streamq.store.embedded import EmbeddedServer


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="The embedded server of this project: for development, no set-up.")
    for function in (start, stop, url):
        group.command()(command(function))
    app.add_typer(group, name="redis")


def start(output: Output = Format.TABLE, config: ConfigPath = None, redis_url: RedisUrl = None) -> None:
    """Start the project's own server and keep it running, until `streamq redis stop`. Prints its URL.

    It lives in .streamq/ beside config/, listens on a unix socket alone and keeps its data. Without this, the first
    command that finds no Redis starts it too, and the last one stops it.

    Example: export REDIS_URL=$(streamq redis start)
    """
    server = _server(config, redis_url)
    server.keep()
    _tell(server, output)


def stop(output: Output = Format.TABLE, config: ConfigPath = None, redis_url: RedisUrl = None) -> None:
    """Stop the project's own server, whoever uses it. Its data is kept. Exits with 4 when none runs.

    Example: streamq redis stop
    """
    server = _server(config, redis_url)
    if not server.stop():
        fail(f"no embedded server runs in {server.directory}", NOT_FOUND)
    if output is not Format.TABLE:
        show([{"directory": str(server.directory), "stopped": True}], output)
    typer.echo(f"stopped; its data stays in {server.directory}", err=True)


def url(output: Output = Format.TABLE, config: ConfigPath = None, redis_url: RedisUrl = None) -> None:
    """Print the URL of the project's own server. Exits with 4 when none runs.

    Example: redis-cli -u "$(streamq redis url)" ping
    """
    server = _server(config, redis_url)
    if not server.running():
        fail(f"no embedded server runs in {server.directory}; `streamq redis start` starts one", NOT_FOUND)
    _tell(server, output)


def _tell(server: "EmbeddedServer", output: Format) -> None:
    if output is Format.TABLE:
        typer.echo(server.url)
    else:
        show([{"url": server.url, "directory": str(server.directory)}], output)


def _server(config: ConfigPath, redis_url: str | None) -> "EmbeddedServer":
    """The server of the directory that an embedded:// URL names, else of the project."""
    from streamq.session import project_of
    from streamq.store.embedded import DIRECTORY_NAME, EmbeddedServer
    from streamq.store.url import parse_url

    settings = settings_from(config, redis_url)
    named = parse_url(settings.redis_url) if settings.redis_url else None
    if redis_url is not None and named is not None and named.kind != "embedded":
        raise typer.BadParameter("--redis-url: these commands are about embedded:// or embedded:///path/to/directory")
    directory = named.directory if named is not None and named.kind == "embedded" else None
    return EmbeddedServer(directory or project_of(settings) / DIRECTORY_NAME)
