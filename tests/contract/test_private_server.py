"""The private server that tests run against: it is there, it is alone, and it is gone."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import redis

from streamq.core.errors import RedisUnavailable
from streamq.testing.server import PrivateServer
from tests.support import SERVERS, server_binary, wait_until

KEEP = ["--appendonly", "yes", "--appendfsync", "always"]


def ask(server, *command):
    with redis.Redis.from_url(server.url, socket_timeout=0.2) as client:
        return client.execute_command(*command)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("kind", SERVERS)
def test_each_kind_is_the_version_it_says(kind, empty_server):
    """What the suite claims to have run on. A 7.0 comes from the system, which may have a younger one."""
    info = ask(empty_server(kind), "INFO", "server")
    name, _, version = kind.partition("-")
    found = info.get("valkey_version" if name == "valkey" else "redis_version")
    if kind == "redis-7.0" and os.environ.get("STREAMQ_REQUIRE_SERVERS") != "1" and not found.startswith(version):
        pytest.skip(f"redis-server is {found} here")
    assert found.startswith(f"{version}.")


def test_it_listens_on_its_socket_alone_and_saves_nothing():
    with PrivateServer() as server:
        settings = {name: ask(server, "CONFIG", "GET", name)[name.encode()] for name in ("port", "save", "appendonly")}
        assert settings == {"port": b"0", "save": b"", "appendonly": b"no"}
        assert server.directory.stat().st_mode & 0o777 == 0o700


def test_at_the_end_nothing_is_left():
    """The process, its directory, and the way back to it."""
    with PrivateServer() as server:
        pid, directory = server.pid, server.directory
        assert alive(pid)
    assert not alive(pid)
    assert not directory.exists()
    with pytest.raises(RuntimeError, match="does not run"):
        _ = server.pid


def test_more_arguments_win():
    with PrivateServer(server_binary("redis-7.0"), args=["--maxmemory", "5mb", "--appendonly", "yes"]) as server:
        assert ask(server, "CONFIG", "GET", "maxmemory") == {b"maxmemory": b"5242880"}
        assert ask(server, "CONFIG", "GET", "appendonly") == {b"appendonly": b"yes"}


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_data_survives_when_it_is_kept(how):
    """By its own append-only file, at the same URL, in another process."""
    with PrivateServer(args=KEEP) as server:
        url, pid = server.url, server.pid
        ask(server, "SET", "k", "v")
        if how == "restart":
            server.restart()
        else:
            server.kill()
            assert not alive(pid)
            server.start()
        assert (server.url, server.pid != pid) == (url, True)
        assert ask(server, "GET", "k") == b"v"
        server.empty()
        assert ask(server, "GET", "k") is None


def test_a_frozen_server_answers_nothing_and_goes_on():
    with PrivateServer() as server:
        server.pause()
        with pytest.raises(redis.TimeoutError):
            ask(server, "PING")
        server.resume()
        assert ask(server, "PING")


def test_a_frozen_server_is_ended_all_the_same():
    with PrivateServer() as server:
        pid = server.pid
        server.pause()
    assert not alive(pid)


def test_a_server_that_refuses_to_be_emptied_says_so():
    with PrivateServer(args=["--requirepass", "x"]) as server, pytest.raises(RuntimeError, match="NOAUTH"):
        server.empty()


@pytest.mark.parametrize("binary", [None, "/bin/false"])
def test_a_server_that_does_not_start_says_why(binary):
    server = PrivateServer(binary, args=["--no-such-option", "x"])
    with pytest.raises(RedisUnavailable, match="did not start") as caught:
        server.start()
    assert ("no-such-option" in str(caught.value)) == (binary is None)
    server.close()


def test_one_that_is_forgotten_is_ended():
    """A test that fails half-way leaves no process behind."""
    server = PrivateServer().start()
    pid, directory = server.pid, server.directory
    del server
    wait_until(lambda: not alive(pid))
    assert not directory.exists()


def test_one_whose_process_is_killed_is_ended():
    """A run that is cut short by kill -9 leaves nothing behind."""
    script = """if True:
        from streamq.testing.server import PrivateServer
        server = PrivateServer().start()
        print(server.pid, server.directory, flush=True)
        input()
    """
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        pid, directory = child.stdout.readline().split()
        assert alive(int(pid))
        child.kill()
    wait_until(lambda: not alive(int(pid)))
    wait_until(lambda: not Path(directory).exists())


def test_a_long_directory_for_temporary_files_is_no_obstacle(tmp_path, monkeypatch):
    """A path of a unix socket has 107 bytes at most."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with PrivateServer() as server:
        assert ask(server, "PING")
        assert Path(long) not in server.directory.parents
    assert list(long.iterdir()) == []
