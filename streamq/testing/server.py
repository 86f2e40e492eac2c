"""A Redis or Valkey of one's own for the time of a test: on a unix socket, with a directory that goes with it."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from streamq.core.errors import RedisUnavailable
from streamq.store.embedded import SOCKET_PATH_LIMIT, find_binary

START_TIMEOUT = 30.0  # seconds until a server must answer; it does after 0.1
STOP_TIMEOUT = 15.0  # seconds it may take to go when it is asked


class PrivateServer:
    """A server that nobody else uses. As a context manager it starts, and is gone with its data at the end.

    It listens on no port, saves nothing unless told to, and is ended by its own pid. What it holds survives `restart`
    and `kill` only with ``args=["--appendonly", "yes"]``.

    Args:
        binary: the server to run; by default the one that `streamq redis start` would run.
        args: more of its options, like ``["--maxmemory", "10mb"]``; they win over what stands here.

    Attributes:
        url: what clients connect to, the same over every restart.
        directory: where it keeps its socket, its log and its data.
    """

    def __init__(self, binary: str | Path | None = None, *, args: Sequence[str] = ()) -> None:
        self.directory = _short_directory()
        self._socket = self.directory / "s.sock"
        self.url = f"unix://{quote(str(self._socket))}"
        self._command = [
            str(binary or find_binary()), "--port", "0", "--unixsocket", str(self._socket), "--save", "",
            "--appendonly", "no", "--dir", str(self.directory), *args,
        ]  # fmt: skip
        self._processes: list[subprocess.Popen[bytes]] = []  # the running one and its guard, if any
        self._end = weakref.finalize(self, _end, self._processes, self.directory)

    @property
    def pid(self) -> int:
        """Of the running server.

        Raises:
            RuntimeError: none runs.
        """
        if not self._processes:
            raise RuntimeError("this server does not run")
        return self._processes[0].pid

    def start(self) -> Self:
        """Start it and wait until it answers.

        Raises:
            RedisUnavailable: it does not; the text holds the end of its log.
        """
        with (self.directory / "server.log").open("ab") as log:
            # In a session of its own: a Ctrl-C of the terminal ends the tests, not the server below them.
            process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._processes += [process, _guard(process.pid, self.directory)]
        if not _until(lambda: self._answers() or process.poll() is not None, START_TIMEOUT) or not self._answers():
            self.kill()
            tail = (self.directory / "server.log").read_text(errors="replace").splitlines()[-5:]
            raise RedisUnavailable("\n".join([f"{self._command[0]} did not start:", *tail]))
        return self

    def stop(self) -> None:
        """Ask it to go and wait until it has. Its directory stays, for another `start`."""
        _stop(self._processes, signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL, as a power cut of the process alone would."""
        _stop(self._processes, signal.SIGKILL)

    def restart(self) -> None:
        """Stop it and start it again."""
        self.stop()
        self.start()

    def empty(self) -> None:
        """Delete everything it holds.

        Raises:
            RuntimeError: it refuses.
        """
        reply = self._ask(b"FLUSHALL")
        if not reply.startswith(b"+OK"):
            raise RuntimeError(f"the server answered FLUSHALL with {reply!r}")

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Stop it for good and delete its directory."""
        self._end()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _answers(self) -> bool:
        """Whether it serves commands: any reply but that it still loads data. By hand: redis takes 0.6 s to load."""
        with suppress(OSError):
            reply = self._ask(b"PING")
            return reply != b"" and not reply.startswith(b"-LOADING")
        return False

    def _ask(self, command: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(5.0)
            connection.connect(str(self._socket))
            connection.sendall(command + b"\r\n")
            return connection.recv(64)


def _end(processes: list[subprocess.Popen[bytes]], directory: Path) -> None:
    _stop(processes, signal.SIGTERM)
    shutil.rmtree(directory, ignore_errors=True)


def _stop(processes: list[subprocess.Popen[bytes]], how: signal.Signals) -> None:
    if not processes:
        return
    process, guard = processes
    process.send_signal(how)
    process.send_signal(signal.SIGCONT)  # a paused one does not hear the rest
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    guard.kill()
    guard.communicate()
    processes.clear()


def _guard(pid: int, directory: Path) -> subprocess.Popen[bytes]:
    """A shell that ends the server when this process dies without a word: then its input ends."""
    script = 'read -r _; kill -9 "$1"; rm -rf "$2"'
    command = ["/bin/sh", "-c", script, "sh", str(pid), str(directory)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)


def _short_directory() -> Path:
    """A new private directory, in a short place when the usual one is too long for a unix socket."""
    directory = Path(tempfile.mkdtemp(prefix="streamq-"))
    if len(os.fsencode(directory / "s.sock")) <= SOCKET_PATH_LIMIT:
        return directory
    directory.rmdir()
    return Path(tempfile.mkdtemp(prefix="streamq-", dir="/tmp"))


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
