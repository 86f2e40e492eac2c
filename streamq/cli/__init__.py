"""The command line. ``streamq --help`` loads typer alone: whatever costs time is imported inside the commands."""

import typer

from streamq.cli import config, dead_letters, delayed, demo, doctor, keys, look, publish, redis_server, worker

app = typer.Typer(
    name="streamq",
    help="Work queues on Redis Streams: publish messages, run workers, lose nothing.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (worker, publish, look, dead_letters, delayed, doctor, config, keys, redis_server, demo):
    module.register(app)


@app.command()
def version() -> None:
    """Print the versions of streamq, Python and what it stands on."""
    import platform
    from importlib.metadata import version as version_of

    typer.echo(f"streamq {version_of('streamq')}")
    typer.echo(f"python {platform.python_version()}")
    for name in ("redis", "hiredis", "msgspec"):
        typer.echo(f"{name} {version_of(name)}")


def main() -> None:
    """Entry point of the ``streamq`` command."""
    app()
