"""``streamq config``: what is configured, where it comes from, and whether it can work."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from streamq.cli.options import ConfigPath, RedisUrl, scoped, settings_from
from streamq.cli.output import Format, Output, show
from streamq.cli.run import NOT_FOUND, command, fail

option = scoped("CONFIG")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="The configuration: show it, check it, its schema for editors.")
    group.command("show")(command(show_config))
    group.command()(command(check))
    group.command("schema")(command(print_schema))
    app.add_typer(group, name="config")


def show_config(
    key: Annotated[
        str | None, typer.Argument(metavar="[KEY]", help="Only this and what is below it, like queues.email_queue.")
    ] = None,
    origin: Annotated[bool, option("--origin", help="Say where each value comes from.")] = False,
    output: Output = Format.TABLE,
    config: ConfigPath = None,
    redis_url: RedisUrl = None,
) -> None:
    """Show every value as it holds now: the file, the environment and the defaults put together. No secret is shown.

    Example: streamq config show queues.email_queue --origin
    """
    from streamq.core.config_tree import suggest
    from streamq.settings import effective

    settings = settings_from(config, redis_url)
    rows = [{"key": name, "value": value} for name, value in _flat(effective(settings), ())]
    if key is not None:
        chosen = [row for row in rows if row["key"] == key or row["key"].startswith(f"{key}.")]
        if not chosen:
            sections = {row["key"].rpartition(".")[0] for row in rows} | {row["key"] for row in rows}
            fail(f"there is no key {key!r}; {suggest(key, sorted(sections)) if sections else ''}", NOT_FOUND)
        rows = chosen
    if origin:
        rows = [row | {"origin": settings.origins.get(row["key"], "default")} for row in rows]
    show(rows, output)


def check(output: Output = Format.TABLE, config: ConfigPath = None, redis_url: RedisUrl = None) -> None:
    """Check the configuration, the variables and the signing keys, without asking Redis.

    Everything that is wrong is told at once, as FILE:LINE:COLUMN: what is wrong, what would be right. Then it exits
    with 78.

    Example: streamq config check --config config/queues.yaml
    """
    from streamq.core.config import check_queue_name
    from streamq.core.signing import KeyRing, resolve_signing

    settings = settings_from(config, redis_url)
    ring = KeyRing.parse(settings.signing_keys) if settings.signing_keys else KeyRing()
    for queue in settings.config.queues.values():
        resolve_signing(queue, ring, production=settings.production)
    for name in settings.queues:
        check_queue_name(name)
    path = settings.config_path
    row = {
        "file": str(path) if path else None,
        "queues": len(settings.config.queues),
        "signing_keys": [f"{key.key_id}{f'@{key.queue}' if key.queue else ''}:{key.state}" for key in ring.keys],
        "ok": True,
    }
    show([row], output)
    if path is None:
        typer.echo("there is no config/queues.yaml here or further up: the defaults hold", err=True)


def print_schema(
    output: Annotated[
        Format, option("-o", "--output", help="table: the schema itself, for editors; json, jsonl: as the only row.")
    ] = Format.TABLE,
) -> None:
    """Print the JSON schema of config/queues.yaml: editors complete and check with it.

    Put `# yaml-language-server: $schema=queues.schema.json` into the first line of the file.

    Example: streamq config schema > config/queues.schema.json
    """
    from streamq.settings import config_schema

    if output is Format.TABLE:
        import msgspec

        typer.echo(msgspec.json.format(msgspec.json.encode(config_schema()), indent=2))
    else:
        show([config_schema()], output)


def _flat(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, below in value.items():
            yield from _flat(below, (*path, name))
    else:
        yield ".".join(path), value
