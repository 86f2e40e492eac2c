"""``streamq worker``: serve queues."""

import functools
from typing import TYPE_CHECKING, Annotated

import typer

from streamq.cli.alone import serve_one
from streamq.cli.options import AppName, ConfigPath, RedisUrl, duration, load_app, option, settings_from
from streamq.cli.run import CUT_SHORT, INTERRUPTED, command, run_async

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from streamq.app import AppWorker, StreamQ

HARD_EXIT_AFTER = 2  # signals: the third does not wait for anything


Queues = Annotated[
    list[str] | None,
    option("--queue", "-q", help="A queue to serve; repeat it for several. [env: QUEUE_NAME, QUEUE_NAMES]"),
]
Concurrency = Annotated[
    int | None, option("--concurrency", "-c", min=1, help="Handlers at once on each queue. [env: MAX_CONCURRENT]")
]
Processes = Annotated[int, option("--processes", min=1, help="Worker processes; those that die are replaced.")]
Burst = Annotated[bool, option("--burst", help="End when nothing is ready; messages due later stay.")]
DrainTimeout = Annotated[
    float | None,
    option("--drain-timeout", parser=duration, metavar="TIME", help="What running handlers get after SIGTERM."),
]
Reload = Annotated[bool, option("--reload", help="Start anew when a Python file changes: for development.")]
Http = Annotated[
    str | None,
    option(
        "--http",
        help="Serve /livez, /readyz, /metrics at HOST:PORT; the second process takes PORT+1.",
    ),
]
Name = Annotated[str | None, option("--name", help="First part of the worker's name; default: this host's.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(command(worker))


def worker(
    queue: Queues = None,
    app: AppName = None,
    concurrency: Concurrency = None,
    processes: Processes = 1,
    burst: Burst = False,
    drain_timeout: DrainTimeout = None,
    reload: Reload = False,
    http: Http = None,
    name: Name = None,
    config: ConfigPath = None,
    redis_url: RedisUrl = None,
) -> None:
    """Serve queues until stopped.

    SIGTERM and Ctrl-C finish what runs and exit with 0 (75 when work had to be cut short and was handed back).
    A second one does not wait.
    """
    settings = settings_from(config, redis_url)
    if reload or processes > 1:
        from streamq.cli import processes as parent

        raise typer.Exit(parent.supervise(1 if reload else processes, reload=reload, burst=burst))
    loaded = load_app(app)
    loaded.configure(settings)
    serving = loaded.worker(
        *(queue or settings.queues),
        concurrency=concurrency or settings.concurrency,
        burst=burst,
        name=name,
        drain_timeout=drain_timeout,
    )
    serving.suspects = functools.partial(serve_one, app, settings)
    _exit(run_async(lambda: _serve(loaded, serving, http)), serving)


async def _serve(app: "StreamQ", serving: "AppWorker", http: str | None) -> tuple[int, int]:
    """Run the worker under signals. Returns how many handlers were cut short, and how many signals came."""
    import os
    import signal

    import anyio

    signals = 0

    async def listen() -> None:
        nonlocal signals
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
            async for number in received:
                signals += number == signal.SIGINT
                _on_signal(serving, signals)

    async with anyio.create_task_group() as group:
        group.start_soon(listen)
        if os.environ.get("STREAMQ_SUPERVISED"):
            group.start_soon(_stop_with_parent, serving)
        async with _http(app, serving, http):
            cancelled = await serving.run()
        group.cancel_scope.cancel()
    return cancelled, signals


async def _stop_with_parent(serving: "AppWorker") -> None:
    """The parent holds the other end of our stdin: when it closes, nobody would stop us any more."""
    import sys

    import anyio

    await anyio.wait_readable(sys.stdin)  # not with a thread that reads: it would keep the interpreter from ending
    serving.stop()


def _on_signal(serving: "AppWorker", interrupts: int) -> None:
    import os

    import structlog

    if interrupts > HARD_EXIT_AFTER:
        os._exit(INTERRUPTED)
    running = serving.running()
    hint = "press again to stop now" if interrupts == 1 else ""
    structlog.get_logger("streamq").info(f"stopping: finishing {running} messages", **({"hint": hint} if hint else {}))
    serving.stop()


def _http(app: "StreamQ", serving: "AppWorker", address: str | None) -> "AbstractAsyncContextManager[object]":
    import contextlib

    from streamq.core.errors import ConfigError

    if address is None:
        return contextlib.nullcontext()
    try:
        from streamq.ext.http import serve_http
    except ImportError as missing:
        raise ConfigError(f"--http needs {missing.name}: pip install 'streamq[http]'") from missing
    return serve_http(app, serving, address)


def _exit(ended: tuple[int, int], serving: "AppWorker") -> None:
    import os
    import sys

    cancelled, interrupts = ended
    code = INTERRUPTED if interrupts > 1 else CUT_SHORT if cancelled else 0
    if serving.has_busy_threads():
        # A thread that cannot be stopped would keep the interpreter alive for as long as it likes.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise typer.Exit(code)
