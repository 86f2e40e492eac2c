"""Those who take part: programs that publish and work when they are told to, each in the Python of its environment."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.peers import environments

ROOT = Path(__file__).parent.parent
BASELINES = ("bare", "redis_py")
US = "streamq"
STOP_TIMEOUT = 10.0  # seconds that a worker may take to go
PUBLISH_TIMEOUT = 600.0  # seconds
FOREIGN = ("STREAMQ_", "BENCH_", "PYTHON", "REDIS_", "QUEUE_NAME", "MAX_CONCURRENT", "LOG_LEVEL")  # not to meddle


class ContestantFailed(Exception):
    """It ended, or stood still, before it was done."""


class Contestant(NamedTuple):
    """A program with the commands ``about``, ``publish``, ``work`` and ``trickle`` (benchmarks/peers/README.md).

    Attributes:
        name: what the results call it.
        command: starts it.
        filled_by: who publishes what it drains.
    """

    name: str
    command: Sequence[str]
    filled_by: str

    @property
    def ours(self) -> bool:
        """Whether it stands in this repository whole: a failure is ours, too."""
        return self.name in (US, *BASELINES)

    def ask(self, *arguments: object, environment: dict[str, str] | None = None, folder: Path) -> Any:
        """Run a command to its end.

        Args:
            *arguments: of the command line.
            environment: variables to add.
            folder: its working directory.

        Returns:
            What it printed, decoded; None for nothing.

        Raises:
            ContestantFailed: with the end of what it said.
        """
        try:
            done = subprocess.run(
                [*self.command, *map(str, arguments)], cwd=folder, env=self._environment(environment or {}),
                capture_output=True, timeout=PUBLISH_TIMEOUT, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ContestantFailed(f"{self.name}: {error}") from error
        if done.returncode != 0:
            raise ContestantFailed(f"{self.name} {arguments[0]} ended with {done.returncode}: {_tail(done.stderr)}")
        return json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else None

    @contextmanager
    def working(self, arguments: Sequence[str], environment: dict[str, str], folder: Path) -> Iterator["Process"]:
        """Run one worker for the time of a block.

        Args:
            arguments: the whole command line.
            environment: variables to add.
            folder: its working directory; what it prints goes there, too.
        """
        log = folder / f"{self.name}-{len(list(folder.iterdir()))}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                arguments, cwd=folder, env=self._environment(environment), stdin=subprocess.DEVNULL, stdout=file,
                stderr=file, start_new_session=True,
            )  # fmt: skip
        try:
            yield Process(self.name, process, log)
        finally:
            _stop(process)

    def _environment(self, added: dict[str, str]) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        return {**inherited, **({"PYTHONPATH": str(ROOT)} if self.ours else {}), **added}


class Process(NamedTuple):
    """A worker that runs."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def pid(self) -> int:
        """Of what was started; there may be more below it."""
        return self.process.pid

    def check(self) -> None:
        """See that it is still there.

        Raises:
            ContestantFailed: it is not.
        """
        if self.process.poll() is not None:
            raise ContestantFailed(f"{self.name} ended with {self.process.returncode}: {self.told()}")

    def told(self) -> str:
        """The end of what it printed."""
        return _tail(self.log.read_bytes())

    def send(self, number: signal.Signals) -> None:
        """Send a signal to it alone."""
        self.process.send_signal(number)


def find(names: Sequence[str]) -> list[Contestant]:
    """The contestants of these names.

    Args:
        names: of streamq, of baselines, of peers that are installed.

    Raises:
        LookupError: nobody has the name, or the peer is not installed.
    """
    return [_ours(name) if name in (US, *BASELINES) else _peer(name) for name in names]


def _ours(name: str) -> Contestant:
    # -P: the folder of the script would come first on the module path, and contestants/streamq.py hide streamq.
    script = Path(__file__).parent / "contestants" / f"{name}.py"
    return Contestant(name, (sys.executable, "-P", str(script)), filled_by=US)


def _peer(name: str) -> Contestant:
    environments.requirements(name)
    if not environments.installed(name):
        raise LookupError(f"{name} is not installed: python -m benchmarks.peers install {name}")
    return Contestant(name, (str(environments.python_of(name)), str(environments.script(name))), filled_by=name)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    process.send_signal(signal.SIGCONT)  # a stopped one does not hear the rest
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # itself, or what it left behind
    process.wait()


def _tail(output: bytes) -> str:
    return " | ".join(output.decode(errors="replace").strip().splitlines()[-3:])
