"""Options that many commands share, and what they lead to."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from streamq.app import StreamQ
    from streamq.session import Session
    from streamq.settings import Settings

ConfigPath = Annotated[
    Path | None,
    typer.Option("--config", envvar="STREAMQ_CONFIG", help="Configuration; default: config/queues.yaml, here or further up."),
]
RedisUrl = Annotated[
    str | None,
    typer.Option(
        "--redis-url", help="Where Redis is: redis:// rediss:// unix:// redis+sentinel:// redis+cluster:// embedded://"
        " [env: STREAMQ_REDIS_URL, REDIS_URL]",
    ),
]  # fmt: skip
AppName = Annotated[
    str | None,
    typer.Option(
        "--app", envvar="STREAMQ_APP",
        help="The app as MODULE:NAME; default: [tool.streamq] app in pyproject.toml, else the package workers.",
    ),
]  # fmt: skip


def settings_from(config: Path | None, redis_url: str | None) -> "Settings":
    """Read the configuration, and send logs where they belong."""
    from streamq import logs
    from streamq.settings import load_settings

    settings = load_settings(config=config, redis_url=redis_url)
    logs.configure(settings.log_level, settings.log_format)
    return settings


@asynccontextmanager
async def session_from(config: Path | None, redis_url: str | None) -> AsyncIterator["Session"]:
    """Connect for the time of a command."""
    from streamq.session import open_session

    async with open_session(settings_from(config, redis_url)) as session:
        yield session


def load_app(name: str | None) -> "StreamQ":
    """Import the user's app. The working directory comes first on the path.

    Raises:
        ConfigError: there is none, or it cannot be imported.
    """
    import importlib

    from streamq.app import StreamQ
    from streamq.core.errors import ConfigError

    chosen = name or _app_of_project() or "workers:app"
    module_name, _, attribute = chosen.partition(":")
    if sys.path[:1] != [os.getcwd()]:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name.partition(".")[0] and error.name != module_name:
            raise ConfigError(f"the app {chosen} cannot be imported: {error}") from error
        raise ConfigError(
            f"no app found: there is no module {module_name!r}. Name yours with --app MODULE:NAME, or with "
            f"[tool.streamq] app in pyproject.toml"
        ) from error
    found = getattr(module, attribute or "app", None)
    if not isinstance(found, StreamQ):
        raise ConfigError(f"{module_name} has no StreamQ app called {attribute or 'app'!r}; name yours with --app MODULE:NAME")
    return found


def _app_of_project() -> str | None:
    import tomllib

    for folder in (Path.cwd(), *Path.cwd().parents):
        path = folder / "pyproject.toml"
        if path.is_file():
            with path.open("rb") as file:
                named = tomllib.load(file).get("tool", {}).get("streamq", {}).get("app")
            return str(named) if named else None
    return None
