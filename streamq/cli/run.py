"""Running a command: an event loop for those that need one, and an exit code for each way it can end."""

import functools
from collections.abc import Awaitable, Callable
from inspect import cleandoc
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec

import typer

if TYPE_CHECKING:
    from streamq.core.errors import RedisUnavailable

P = ParamSpec("P")

FAILURE, USAGE, NOT_FOUND, UNREACHABLE, CUT_SHORT, BAD_CONFIG, INTERRUPTED = 1, 2, 4, 69, 75, 78, 130


def command(function: Callable[P, Awaitable[None] | None]) -> Callable[P, None]:
    """Make a command of a plain or a coroutine function: typer itself would never await one."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        import inspect

        from streamq.core.errors import ConfigError, RedisUnavailable, StreamqError

        try:
            if inspect.iscoroutinefunction(function):
                run_async(functools.partial(function, *args, **kwargs))
            else:
                function(*args, **kwargs)
        except ConfigError as error:
            fail(str(error), BAD_CONFIG)
        except RedisUnavailable as error:
            fail(str(error), _code_of(error))
        except StreamqError as error:
            fail(str(error), FAILURE)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None

    # click wraps paragraphs, but for those that begin so: a command line must stay one line.
    run.__doc__ = cleandoc(function.__doc__ or "").replace("\nExample:", "\n\b\nExample:")
    return run


def run_async(main: Callable[[], Awaitable[Any]]) -> Any:
    """Run a coroutine function on uvloop where it is installed, on asyncio's own loop otherwise."""
    import anyio

    from streamq.core.errors import cause_of

    try:
        return anyio.run(main, backend="asyncio", backend_options={"use_uvloop": _has_uvloop()})
    except BaseExceptionGroup as group:
        raise cause_of(group) from None


def fail(text: str, code: int) -> NoReturn:
    """Say why on stderr, and end."""
    typer.echo(text, err=True)
    raise typer.Exit(code)


def _code_of(error: "RedisUnavailable") -> int:
    """A Redis that answers but will not do it, for want of rights or because of a foreign key, was reached."""
    from streamq.store.outages import RedisRefused

    return FAILURE if isinstance(error, RedisRefused) else UNREACHABLE


def _has_uvloop() -> bool:
    from importlib.util import find_spec

    return find_spec("uvloop") is not None
