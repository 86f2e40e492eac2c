"""Options that many commands share, and what they lead to."""

import functools
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from streamq.app import StreamQ
    from streamq.session import Session
    from streamq.settings import Settings

PATIENCE, PAUSE = 10.0, 0.5  # seconds that Redis gets to answer, and between two tries


def option(*names: str, scope: str = "", **details: Any) -> Any:
    """An option that can be set by ``STREAMQ_`` and its long name as well.

    Args:
        *names: like ``-q`` and ``--queue``.
        scope: stands before the name in the variable.
        **details: as for ``typer.Option``.
    """
    long = max((name.partition("/")[0] for name in names), key=len)
    variable = f"STREAMQ_{scope}{long.strip('-').replace('-', '_').upper()}"
    return typer.Option(*names, **{"envvar": variable, **details})


def scoped(name: str) -> Callable[..., Any]:
    """``option`` for one command or group, whose variables begin with its name.

    The variables without one are the worker's and those of all commands: ``STREAMQ_QUEUE`` of a container must not
    narrow what ``dlq list`` shows there, nor one ``--yes`` answer for another command.
    """
    return functools.partial(option, scope=f"{name}_")


def duration(text: str | float) -> float:
    """Read ``500ms`` ``30s`` ``5m`` ``1h`` ``1d`` as seconds; ``parser=`` of an option."""
    from streamq.core.values import parse_duration

    try:
        return parse_duration(float(text) if str(text).replace(".", "", 1).isdecimal() else text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def queue_name(text: str) -> str:
    """Refuse what cannot be the name of a queue; ``parser=`` of an argument."""
    from streamq.core.config import check_queue_name
    from streamq.core.errors import ConfigError

    try:
        return check_queue_name(text)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None


ConfigPath = Annotated[
    Path | None, option("--config", help="Configuration; default: config/queues.yaml, here or further up.")
]
RedisUrl = Annotated[
    str | None,
    typer.Option(  # not envvar=: the settings read the variables, and know which of them spoke
        "--redis-url", help="Where Redis is: redis:// rediss:// unix:// redis+sentinel:// redis+cluster:// embedded://"
        " [env: STREAMQ_REDIS_URL, REDIS_URL]",
    ),
]  # fmt: skip
AppName = Annotated[
    str | None,
    option(
        "--app", help="The app as MODULE:NAME; default: [tool.streamq] app in pyproject.toml, else package workers."
    ),
]


def settings_from(config: Path | None, redis_url: str | None) -> "Settings":
    """Read the configuration, and send logs where they belong."""
    from streamq import logs
    from streamq.settings import load_settings

    settings = load_settings(config=config, redis_url=redis_url)
    logs.configure(settings.log_level, settings.log_format)
    return settings


@asynccontextmanager
async def session_from(config: Path | None, redis_url: str | None) -> AsyncIterator["Session"]:
    """Connect for the time of a command.

    Raises:
        RedisUnavailable: nothing answered for 10 s.
    """
    from streamq.session import open_session

    async with open_session(settings_from(config, redis_url)) as session:
        await _answers(session)
        yield session


async def _answers(session: "Session") -> None:
    """Wait for Redis as a worker does: whoever starts both at once does not want an error."""
    import time

    import anyio

    from streamq.core.errors import RedisUnavailable
    from streamq.store.outages import RedisRefused

    where = f"Redis at {session.located.url} (from {session.located.origin})"
    until, told = time.monotonic() + PATIENCE, False
    while True:
        try:
            await session.connections.execute("PING")
            return
        except RedisRefused as error:
            raise RedisUnavailable(f"{where} refuses us: {error}. Check user and password in the URL") from error
        except RedisUnavailable as error:
            if time.monotonic() > until:
                raise RedisUnavailable(
                    f"{where} does not answer: {error}. Start it, or name another with --redis-url; `streamq redis "
                    f"start` gives you one for development"
                ) from error
            if not told:
                typer.echo(f"{where} does not answer yet; trying for {PATIENCE:.0f} s", err=True)
                told = True
        await anyio.sleep(PAUSE)


async def known_queues(session: "Session") -> list[str]:
    """Queues that are configured or were used, sorted."""
    return sorted({*session.settings.config.queues, *await session.inspector.names()})


async def chosen_queues(session: "Session", queue: str | None) -> list[str]:
    """The one queue that was asked for, or all.

    Exits with 4 when nobody knows it.
    """
    from streamq.cli.run import NOT_FOUND, fail
    from streamq.core.config_tree import suggest

    known = await known_queues(session)
    if queue is None:
        return known
    if queue not in known:
        hint = suggest(queue, known) if known else "there is none yet"
        fail(
            f"there is no queue {queue!r}: not in the configuration, and nothing was published to it; {hint}", NOT_FOUND
        )
    return [queue]


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
    here = str(Path.cwd())
    if sys.path[:1] != [here]:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ConfigError:
        raise
    except ModuleNotFoundError as error:
        if error.name not in {module_name.partition(".")[0], module_name}:
            raise ConfigError(f"the app {chosen} cannot be imported: {error}") from error
        raise ConfigError(
            f"no app found: there is no module {module_name!r}. Name yours with --app MODULE:NAME, or with "
            f"[tool.streamq] app in pyproject.toml"
        ) from error
    except Exception as error:
        raise ConfigError(f"the app {chosen} cannot be imported: {_blame(error)}") from error
    found = getattr(module, attribute or "app", None)
    if not isinstance(found, StreamQ):
        missing = f"{module_name} has no StreamQ app called {attribute or 'app'!r}"
        raise ConfigError(f"{missing}; name yours with --app MODULE:NAME")
    return found


def _blame(error: Exception) -> str:
    """What went wrong while importing, and where in the user's code."""
    import traceback

    here = Path.cwd()
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(here)]
    place = f"{Path(frames[-1].filename).relative_to(here)}:{frames[-1].lineno}: " if frames else ""
    return f"{place}{type(error).__name__}: {error}"


def _app_of_project() -> str | None:
    import tomllib

    from streamq.core.errors import ConfigError

    for folder in (Path.cwd(), *Path.cwd().parents):
        path = folder / "pyproject.toml"
        if path.is_file():
            try:
                with path.open("rb") as file:
                    named = tomllib.load(file).get("tool", {}).get("streamq", {}).get("app")
            except (tomllib.TOMLDecodeError, AttributeError) as error:
                raise ConfigError(
                    f"{path.name} cannot be read: {error}; mend it, or name the app with --app"
                ) from error
            return str(named) if named else None
    return None
