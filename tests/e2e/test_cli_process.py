"""The real command, as a process: what only a process can show."""

import json
import os
import pty
import signal
import subprocess
import sys

import pytest

from streamq.testing.server import PrivateServer
from tests.e2e.cli import STREAMQ, Cli
from tests.support import wait_until

pytestmark = pytest.mark.e2e


@pytest.fixture
def cli(empty_server, tmp_path):
    cli = Cli(empty_server("valkey-9.1").url, tmp_path)
    yield cli
    cli.close()


def test_publish_and_look_by_the_installed_command(cli):
    """Data on stdout and nothing else there; the exit code is the process's."""
    said = cli.process("publish", "mail", "good", "--file", "-", "-o", "json", input='{"n":1}\nbad\n')
    assert (said.code, len(said.rows)) == (1, 1)
    assert "stdin:2" in said.err
    assert cli.process("stats", "mail", "-o", "json").row["ready"] == 1
    assert cli.process("stats", "nope", "-o", "json").code == 4


def test_lines_are_published_as_they_come(cli):
    """A slow producer's lines do not wait for a block to fill."""
    process = cli.start("publish", "mail", "t", "--file", "-", "-o", "jsonl", stdin=subprocess.PIPE)
    for n in (1, 2):
        process.stdin.write(b'{"n": 1}\n')
        process.stdin.flush()
        wait_until(lambda n=n: cli.redis.xlen("queue:mail") == n)
    out, _ = process.communicate(timeout=10)
    assert len(out.splitlines()) == 2
    assert process.returncode == 0


def test_ctrl_c_ends_a_publish_that_waits_for_lines(cli):
    """Exit code 130, and the receipts of what was accepted are printed nevertheless."""
    process = cli.start("publish", "mail", "t", "--file", "-", "-o", "json", stdin=subprocess.PIPE)
    process.stdin.write(b'{"n": 1}\n')
    process.stdin.flush()
    wait_until(lambda: cli.redis.xlen("queue:mail") == 1)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    out, err = process.communicate()
    assert len(json.loads(out)) == 1
    assert b"1 accepted" in err
    assert b"Traceback" not in err


def test_an_error_is_a_line_and_no_traceback(cli):
    said = cli.process("stats", "--redis-url", "nonsense://")
    assert (said.code, said.out) == (78, "")
    assert "does not begin with one of" in said.err
    assert "Traceback" not in said.err


def test_a_redis_that_is_not_there_is_named_with_ways_out(cli, monkeypatch):
    """Exit code 69, after some patience for one that is just starting."""
    monkeypatch.setattr("streamq.cli.options.PATIENCE", 0.6)
    said = cli("publish", "mail", "t", "--redis-url", "redis://127.0.0.1:1", code=69)
    assert "does not answer yet" in said.err
    assert "127.0.0.1:1/0 (from --redis-url) does not answer" in said.err
    assert "streamq redis start" in said.err
    assert "refuses us" in cli("stats", "--redis-url", cli.url.replace("unix://", "unix://nobody:x@"), code=69).err


def test_a_redis_that_is_just_starting_is_waited_for(cli):
    with PrivateServer() as server:
        server.stop()
        process = cli.start("publish", "mail", "t", "--redis-url", server.url)
        assert b"does not answer yet" in process.stderr.readline()
        server.start()
        process.communicate(timeout=10)
        assert process.returncode == 0


def test_watching_ends_cleanly(cli):
    """Ctrl-C is how it is meant to end: exit code 0, no traceback, every line whole."""
    cli("publish", "mail", "good")
    process = cli.start("stats", "--watch", "--interval", "100ms", "-o", "jsonl")
    lines = [json.loads(process.stdout.readline()) for _ in range(2)]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (0, b"")
    assert (lines[0]["queue"], lines[0]["ready"], lines[0]["in_s"]) == ("mail", 1, None)
    assert lines[1]["in_s"] == 0.0
    assert all(json.loads(line) for line in out.splitlines())


def test_watching_redraws_on_a_terminal(cli):
    """The table is drawn over the old one, and the cursor is there again at the end."""
    cli("publish", "mail", "good")
    screen, ours = pty.openpty()
    try:
        process = cli.start("stats", "--watch", "--interval", "100ms", env={"TERM": "xterm"}, stdout=ours)
        os.close(ours)
        seen = b""
        while b"0.0" not in seen:  # the rates of the second look
            seen += os.read(screen, 65536)
        process.send_signal(signal.SIGINT)
        while process.poll() is None or b"\x1b[?25h" not in seen:
            try:
                seen += os.read(screen, 65536)
            except OSError:  # nobody writes any more
                break
        assert process.wait(10) == 0
        assert b"\x1b[?25l" in seen
        assert b"\x1b[?25h" in seen
        assert process.stderr.read() == b""
        process.stderr.close()
    finally:
        os.close(screen)


def test_progress_is_shown_where_somebody_looks(cli):
    """On stderr, when that is a terminal; stdout holds the receipts alone."""
    screen, ours = pty.openpty()
    try:
        process = cli.start("publish", "mail", "t", "--count", "600", "-o", "jsonl", env={"TERM": "xterm"}, stderr=ours)
        os.close(ours)
        out, _ = process.communicate(timeout=20)
        seen = os.read(screen, 65536)
        assert len([json.loads(line) for line in out.splitlines()]) == 600
        assert b"publishing to mail" in seen
        assert b"600/600" in seen
    finally:
        os.close(screen)


def test_a_reader_that_goes_away_is_no_crash(cli):
    """`streamq dlq export | head -1` ends without a traceback."""
    cli("publish", "mail", "good", "--delay", "1h", "--count", "3000")
    process = cli.start("delayed", "list", "-o", "jsonl")
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert b"Traceback" not in err
    assert process.wait(10) != 0


def test_help_is_quick():
    """It loads typer and nothing heavy."""
    code = "import sys; from streamq.cli import app; import json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"redis", "hiredis", "msgspec", "structlog", "anyio", "asyncio", "yaml", "rich", "uvloop", "pydantic"}
    assert heavy & set(json.loads(done.stdout)) == set()
    before = os.times()
    subprocess.run([STREAMQ, "--help"], capture_output=True, check=True)
    after = os.times()
    used = (after.children_user + after.children_system) - (before.children_user + before.children_system)
    assert used < 0.25
