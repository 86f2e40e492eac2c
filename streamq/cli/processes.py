"""``--processes`` and ``--reload``: a parent that starts worker processes, and starts those that crash anew.

It does no work itself, so nothing that kills a worker kills it.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

import anyio
import structlog

from streamq.cli.run import BAD_CONFIG, CUT_SHORT, FAILURE, UNREACHABLE, USAGE, fail, run_async

FINAL = (USAGE, UNREACHABLE, BAD_CONFIG)  # exit codes that another start would only repeat
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0  # seconds before a crashed worker is started anew
STEADY = 30.0  # seconds after which a crash counts as the first one again


def supervise(count: int, *, reload: bool = False, burst: bool = False) -> int:
    """Run worker processes until they end.

    Args:
        count: how many.
        burst: they end by themselves when nothing is ready.
        reload: start them anew when a Python file below the working directory changes.

    Returns:
        The exit code for all: the first that is not 0.
    """
    if reload and find_spec("watchfiles") is None:
        fail("--reload needs watchfiles: pip install 'streamq[reload]'", FAILURE)
    return int(run_async(_Parent(count, reload=reload, burst=burst).run))


class _Parent:
    def __init__(self, count: int, *, reload: bool, burst: bool) -> None:
        self._count, self._reload, self._burst = count, reload, burst
        self._children: dict[int, anyio.abc.Process] = {}
        self._stopped = anyio.Event()
        self._changed = anyio.Event()  # the next change of a file
        self._outdated: set[int] = set()  # children that were told to end because of one
        self._code = 0
        self._log = structlog.get_logger("streamq")

    async def run(self) -> int:
        async with anyio.create_task_group() as group:
            group.start_soon(self._pass_signals_on)
            if self._reload:
                group.start_soon(self._watch_files)
            async with anyio.create_task_group() as children:
                for number in range(self._count):
                    children.start_soon(self._keep, number)
            group.cancel_scope.cancel()
        return self._code

    async def _keep(self, number: int) -> None:
        pause, deaths = FIRST_PAUSE, 0
        while not self._stopped.is_set():
            started = anyio.current_time()
            code = await self._run_child(number)
            if number in self._outdated:
                self._outdated.discard(number)
            elif self._stopped.is_set() or _is_final(code, deaths, reload=self._reload, burst=self._burst):
                self._code = self._code or max(code, 0)
                if code not in (0, CUT_SHORT):
                    self._stop(signal.SIGTERM)
                return
            elif self._reload:
                self._log.error("the worker ended; waiting for a file to change", code=code)
                await self._pause(float("inf"), self._changed)
            else:
                deaths += 1
                pause = FIRST_PAUSE if anyio.current_time() - started > STEADY else min(LONGEST_PAUSE, 2 * pause)
                self._log.error("a worker process died; starting it anew", number=number, code=code, after=pause)
                await self._pause(pause)

    async def _pause(self, seconds: float, *wakers: anyio.Event) -> None:
        """Sleep, unless it is time to stop or one of ``wakers`` is set."""

        async def wake(event: anyio.Event) -> None:
            await event.wait()
            group.cancel_scope.cancel()

        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as group:
                for event in (self._stopped, *wakers):
                    group.start_soon(wake, event)

    async def _run_child(self, number: int) -> int:
        # A session of its own: Ctrl-C on the terminal reaches the parent alone, which passes it on once. The pipe on
        # stdin tells the child when the parent is gone without having said so.
        process = await anyio.open_process(
            [sys.executable, "-m", "streamq", *child_arguments(sys.argv[1:], number)],
            stdin=subprocess.PIPE, stdout=None, stderr=None, start_new_session=True,
            env=child_environment({**os.environ}, number),
        )  # fmt: skip
        self._children[number] = process
        if self._stopped.is_set():  # while it was started: the signal did not reach it
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        try:
            return await process.wait()
        finally:
            del self._children[number]
            await process.aclose()

    async def _pass_signals_on(self) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
            async for number in received:
                self._stop(number)

    async def _watch_files(self) -> None:
        from watchfiles import PythonFilter, awatch

        async for changes in awatch(".", watch_filter=PythonFilter()):
            self._log.info("files changed; starting anew", files=sorted({path for _, path in changes})[:5])
            changed, self._changed = self._changed, anyio.Event()
            changed.set()
            for number, process in self._children.items():
                if number not in self._outdated:  # a second signal would not let it finish
                    self._outdated.add(number)
                    with contextlib.suppress(ProcessLookupError):
                        process.send_signal(signal.SIGTERM)

    def _stop(self, number: signal.Signals) -> None:
        self._stopped.set()
        for process in self._children.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)


def _is_final(code: int, deaths: int, *, reload: bool, burst: bool) -> bool:
    """Whether starting it anew would only lead to the same end."""
    if reload:
        return code == 0
    if code in (0, CUT_SHORT):  # it came to its end; but for a burst, nobody asked for that: somebody stopped it alone
        return burst
    # Redis may be away just now: whoever worked before waits for it, as a running worker does.
    return code in FINAL and not (code == UNREACHABLE and deaths)


def child_environment(environ: Mapping[str, str], number: int) -> dict[str, str]:
    """The environment of one child: it serves alone, and on a port of its own.

    Args:
        environ: of the parent.
        number: of the child, from 0.
    """
    own = {**environ, "STREAMQ_PROCESSES": "1", "STREAMQ_RELOAD": "", "STREAMQ_SUPERVISED": "1"}
    if environ.get("STREAMQ_HTTP"):
        own["STREAMQ_HTTP"] = _port_of(environ["STREAMQ_HTTP"], number)
    return own


def child_arguments(arguments: Sequence[str], number: int) -> list[str]:
    """The command line of one child: without what is the parent's, and with a port of its own.

    Args:
        arguments: of the parent.
        number: of the child, from 0.
    """
    kept: list[str] = []
    given = iter(arguments)
    for argument in given:
        if argument == "--processes":
            next(given, None)
        elif argument == "--http":
            kept += (argument, _port_of(next(given, ""), number))
        elif argument.startswith("--http="):
            kept.append(f"--http={_port_of(argument.removeprefix('--http='), number)}")
        elif argument != "--reload" and not argument.startswith("--processes="):
            kept.append(argument)
    return kept


def _port_of(address: str, number: int) -> str:
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + number}" if port.isdigit() and port != "0" else address
