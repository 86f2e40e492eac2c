"""``streamq doctor``."""

import pytest

from streamq.testing.server import PrivateServer
from tests.e2e.cli import KEYS, Cli
from tests.support import SERVERS, server_binary

APP = """
from streamq import StreamQ
app = StreamQ()
print("imports may print")

@app.handler("mail")
async def good() -> None: ...
"""


@pytest.fixture(params=SERVERS[:1])
def cli(request, empty_server, tmp_path):
    (tmp_path / "mine.py").write_text(APP)
    cli = Cli(empty_server(request.param).url, tmp_path, keys=KEYS)
    yield cli
    cli.close()


@pytest.fixture(autouse=True)
def in_the_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def diagnosis(cli, *words, code=0, **env):
    """What is not ok, by check."""
    rows = cli("doctor", "--app", "mine:app", "-o", "json", *words, code=code, **env).rows
    assert all(row.keys() == {"check", "status", "detail", "cure"} for row in rows)
    assert all(row["cure"] for row in rows if row["status"] != "ok"), "whatever is wrong has a cure"
    return {row["check"]: row for row in rows if row["status"] != "ok"}


@pytest.mark.parametrize("cli", SERVERS, indirect=True)
def test_a_sound_server_has_no_failure(cli):
    """Every check is told, with who named the Redis; the test servers save nothing, which is a warning."""
    cli("publish", "mail", "good")
    cli.work()
    said = cli("doctor", "--app", "mine:app", "-o", "json")
    rows = {row["check"]: row for row in said.rows}
    assert rows.keys() >= {
        "redis", "latency", "version", "eviction", "memory", "persistence", "timeout", "clock", "socket timeout",
        "rights", "key types", "groups", "workers", "health", "books", "config", "signing", "beat", "handlers",
    }  # fmt: skip
    assert {row["check"] for row in said.rows if row["status"] == "warn"} <= {"persistence", "version"}
    assert "STREAMQ_REDIS_URL" in rows["redis"]["detail"]
    assert "good" in rows["handlers"]["detail"]
    table = cli("doctor", "--app", "mine:app").out
    assert "-> CONFIG SET appendonly yes" in table


def test_a_bad_setting_is_named_with_its_cure(cli):
    """Exit code 1: it would lose messages."""
    try:
        cli.redis.config_set("maxmemory-policy", "allkeys-lru")
        cli.redis.config_set("timeout", 1)
        cli.redis.config_set("maxmemory", "100kb")
        found = diagnosis(cli, code=1, STREAMQ_WORKER__BLOCK="2s")
    finally:
        cli.redis.config_set("maxmemory-policy", "noeviction")
        cli.redis.config_set("timeout", 0)
        cli.redis.config_set("maxmemory", 0)
    assert found["eviction"]["status"] == found["timeout"]["status"] == found["memory"]["status"] == "fail"
    assert "noeviction" in found["eviction"]["cure"]


@pytest.mark.parametrize("cli", SERVERS, indirect=True)
def test_a_queue_that_asks_for_too_much_is_named(cli):
    """The test servers have no append-only file and no replica."""
    found = diagnosis(cli, code=1, STREAMQ_QUEUES__MAIL__DURABLE="fsync")["durable"]
    assert found["status"] == "fail"
    assert "mail" in found["detail"]
    found = diagnosis(cli, code=1, STREAMQ_QUEUES__MAIL__DURABLE="replica")["durable"]
    assert "replica for mail: 0 connected" in found["detail"]
    assert "durable" not in diagnosis(cli)


def test_what_is_wrong_with_a_queue_is_named(cli):
    """A foreign group, a foreign key, a silent worker, a backlog, books that do not balance."""
    cli("publish", "mail", "good", "--count", "2")
    cli.redis.xgroup_create("queue:mail", "streamq", "0")
    cli.redis.xgroup_create("queue:mail", "others", "0")
    cli.redis.xreadgroup("streamq", "ghost", {"queue:mail": ">"}, count=1)
    cli.redis.hincrby("{queue:mail}:ledger", "done", 1)
    cli.redis.sadd("queue:names", "mine")
    cli.redis.set("{queue:mine}:delayed", "a string")
    found = diagnosis(cli, code=1, STREAMQ_QUEUES__MAIL__HEALTHY_BELOW="1")
    assert found["groups"]["status"] == "fail"
    assert "XGROUP DESTROY queue:mail others" in found["groups"]["cure"]
    assert "{queue:mine}:delayed holds a string" in found["key types"]["detail"]
    assert "ghost is silent and holds 1" in found["workers"]["detail"]
    assert "no worker" in found["health"]["detail"]
    assert "imbalance -1" in found["books"]["detail"]
    assert "key types" not in diagnosis(cli, "--queue", "mail", code=1)


def acl(cli, *rules):
    cli.redis.execute_command("ACL", "SETUSER", "worker", *rules)


def test_missing_rights_are_named_one_by_one(cli):
    """What a worker needs is asked for and never tried; what the doctor itself would like to see may be missing."""
    cli("publish", "mail", "good")
    rights = "~queue:* ~{queue:* -@all +@stream +@read +@write +@scripting +@connection +time -xclaim -client|unblock"
    acl(cli, "on", ">secret", *rights.split(" "))
    try:
        url = cli.url.replace("unix://", "unix://worker:secret@")
        found = diagnosis(cli, "--redis-url", url, code=1)
        assert "may not XCLAIM, CLIENT UNBLOCK" in found["rights"]["detail"]
        for check in ("version", "eviction", "memory", "persistence", "timeout"):
            assert "unknown" in found[check]["detail"], check
        acl(cli, "+xclaim", "+client|unblock")
        assert "rights" not in diagnosis(cli, "--redis-url", url)
        acl(cli, "-eval", "-evalsha")
        assert "NoPermission" in diagnosis(cli, "--redis-url", url, code=1)["rights"]["detail"]
    finally:
        cli.redis.execute_command("ACL", "DELUSER", "worker")


def test_a_redis_that_does_not_answer_is_the_first_thing_to_know(cli):
    """At once, and with exit code 69; what needs no Redis is checked nevertheless."""
    rows = cli("doctor", "--redis-url", "redis://127.0.0.1:1", "--app", "mine:app", "-o", "json", code=69).rows
    assert (rows[0]["check"], rows[0]["status"]) == ("redis", "fail")
    assert {"config", "signing", "handlers"} <= {row["check"] for row in rows}


def test_production_wants_keys_and_a_server_of_its_own(cli, tmp_path):
    cli.keys = ""
    url = f"embedded://{tmp_path}/embedded"
    found = diagnosis(cli, "--redis-url", url, code=1, STREAMQ_ENV="production")
    assert found["redis"]["status"] == "warn"
    assert found["signing"]["status"] == "fail"


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import nothing_like_this", "nothing_like_this"),
        ("x = 1", "no StreamQ app"),
        ("from streamq import StreamQ\napp = StreamQ()", "no handler"),
        ("1 / 0", "mine.py:1: ZeroDivisionError"),
        ("import os\nos._exit(3)", "ended the process"),
        ("import sys\nprint('last words', file=sys.stderr)\nos = __import__('os')\nos._exit(3)", "last words"),
    ],
)
def test_an_app_that_cannot_be_imported_fails(cli, tmp_path, source, told):
    """In a process of its own: the doctor survives whatever it does."""
    (tmp_path / "mine.py").write_text(source)
    found = diagnosis(cli, code=1)
    assert told in found["handlers"]["detail"]


def test_who_only_publishes_needs_no_app(cli, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    rows = {row["check"]: row for row in cli("doctor", "-o", "json", STREAMQ_APP="", PYTHONPATH="").rows}
    assert rows["handlers"]["status"] in {"warn", "ok"}  # ok where the package `workers` is installed


def test_a_server_with_snapshots_alone_may_lose_minutes(tmp_path):
    with PrivateServer(server_binary("redis-7.0"), args=["--save", "3600 1"]) as server:
        cli = Cli(server.url, tmp_path, keys=KEYS)
        (tmp_path / "mine.py").write_text(APP)
        found = diagnosis(cli)
        cli.close()
    assert "snapshots" in found["persistence"]["detail"]
    assert "CVE-2025-49844" in found["version"]["detail"]
