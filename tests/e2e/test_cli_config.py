"""``streamq config``, ``keys``, ``redis``."""

import json
import stat

import pytest

from streamq.core.signing import KeyRing
from streamq.store.embedded import EmbeddedServer
from tests.e2e.cli import KEYS, Cli


@pytest.fixture
def cli(tmp_path):
    """None of these commands needs a Redis that runs."""
    cli = Cli("redis://127.0.0.1:1", tmp_path)
    yield cli
    cli.close()


# --- config


def test_show_tells_every_value_and_where_it_comes_from(cli):
    rows = {row["key"]: row for row in cli("config", "show", "--origin", "-o", "json").rows}
    row = rows["queues.small.max_length"]
    assert (row["value"], row["origin"]) == (3, f"{cli.config}:6")
    assert rows["queues.small.ack_timeout"]["origin"] == "level normal"
    assert rows["worker.block"]["value"] == "100ms"
    said = cli("config", "show", "--origin", "-o", "json", STREAMQ_QUEUES__SMALL__MAX_LENGTH="7").rows
    (row,) = (row for row in said if row["key"] == "queues.small.max_length")
    assert (row["value"], row["origin"]) == (7, "STREAMQ_QUEUES__SMALL__MAX_LENGTH")


def test_show_can_be_narrowed_to_a_part(cli):
    rows = cli("config", "show", "queues.small", "-o", "json").rows
    assert {row["key"].rpartition(".")[0] for row in rows} == {"queues.small"}
    assert cli("config", "show", "worker.block", "-o", "json").row == {"key": "worker.block", "value": "100ms"}
    assert "did you mean 'queues.small'" in cli("config", "show", "queues.smal", code=4).err


def test_show_tells_no_secret(cli):
    said = cli("config", "show", STREAMQ_REDIS_URL="redis://me:hush@host:1/0", STREAMQ_SIGNING_KEYS=KEYS)
    assert "hush" not in said.out + said.err
    assert "me:***@host" in said.out


def test_check_names_the_file_and_the_keys(cli):
    row = cli("config", "check", "-o", "json", STREAMQ_SIGNING_KEYS=KEYS).row
    assert row == {"file": str(cli.config), "queues": 2, "signing_keys": ["k1:active"], "ok": True}
    assert "yes" in cli("config", "check").out


def test_check_tells_all_that_is_wrong_at_once(cli):
    """With file, line and column, and exit code 78."""
    cli.config.write_text("queues:\n  mail: {max_retrys: 3, lease: soon}\n")
    said = cli("config", "check", code=78)
    assert f"{cli.config}:2:10: 'max_retrys' is no key here, did you mean 'max_retries'?" in said.err
    assert f"{cli.config}:2:32: lease: 'soon' is no duration" in said.err
    assert said.out == ""


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({"STREAMQ_SIGNING_KEYS": "k1:active:short"}, "signing keys, entry 1"),
        ({"QUEUE_NAMES": "mail,Not A Name"}, "no name for a queue"),
        ({"STREAMQ_REDIS_URL": "http://x"}, "does not begin with one of"),
        ({"STREAMQ_CONFIG": "/no/such/file.yaml"}, "cannot be read"),
    ],
)
def test_check_sees_variables_and_keys_too(cli, env, told):
    assert told in cli("config", "check", code=78, **env).err


def test_check_says_when_there_is_no_file(cli, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    said = cli("config", "check", "-o", "json", STREAMQ_CONFIG="")
    assert said.row["file"] is None
    assert "the defaults hold" in said.err


def test_a_bad_configuration_stops_every_command(cli):
    cli.config.write_text("{nonsense: 1}")
    for words in (
        ["stats"],
        ["publish", "mail", "t"],
        ["dlq", "list"],
        ["doctor"],
        ["config", "show"],
        ["redis", "url"],
    ):
        assert "'nonsense' is no key here" in cli(*words, code=78).err


def test_the_schema_is_one_that_editors_take(cli):
    schema = json.loads(cli("config", "schema").out)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert cli("config", "schema", "-o", "json").rows == [schema]


# --- keys


def test_a_generated_key_is_ready_to_be_used(cli):
    """On stdout the key alone, so that $(...) takes it; how to rotate on stderr."""
    said = cli("keys", "generate")
    (key,) = KeyRing.parse(said.out).keys
    assert (key.key_id, key.state, key.queue) == ("k1", "active", None)
    assert said.out.count("\n") == 1
    assert "To rotate" in said.err
    assert "refuses what is not signed" in said.err
    assert said.out.strip() not in said.err
    assert cli("keys", "generate").out != said.out


def test_the_next_key_has_the_next_free_name(cli):
    said = cli("keys", "generate", "-o", "json", STREAMQ_SIGNING_KEYS=KEYS)
    assert (said.row["id"], said.row["key"].split(":")[:2]) == ("k2", ["k2", "active"])
    assert "k2:active:…,k1:accepted:…" in said.err
    assert cli("keys", "generate", "--id", "mine").out.startswith("mine:active:")
    assert "1 to 32 characters" in cli("keys", "generate", "--id", "not/one", code=78).err


def test_the_key_of_one_queue_signs_for_it_alone(cli):
    """What it signs verifies with the secret it was derived from."""
    said = cli("keys", "generate", "--queue", "mail", STREAMQ_SIGNING_KEYS=KEYS)
    assert said.out.startswith("k1@mail:active:")
    derived, root = KeyRing.parse(said.out), KeyRing.parse(KEYS)
    fields = {b"id": b"1", b"queue": b"mail", b"payload": b"{}"}
    fields[b"signature"] = derived.signer("mail").signature("mail", fields)
    assert root.verify("mail", fields) is None
    assert derived.signer("other") is None


def test_a_key_can_only_be_derived_from_a_secret(cli):
    assert "has no key to derive from" in cli("keys", "generate", "--queue", "mail", code=4).err
    assert (
        "no key 'k9'" in cli("keys", "generate", "--queue", "mail", "--id", "k9", code=4, STREAMQ_SIGNING_KEYS=KEYS).err
    )
    assert "no name" in cli("keys", "generate", "--queue", "Not A Name", code=2, STREAMQ_SIGNING_KEYS=KEYS).err


# --- redis


def test_the_embedded_server_starts_stays_and_stops(cli, tmp_path):
    """It belongs to the directory of the configuration, and `start` pins it."""
    env = {"STREAMQ_REDIS_URL": "", "REDIS_URL": ""}
    folder = tmp_path / ".streamq"
    try:
        assert "streamq redis start" in cli("redis", "url", code=4, **env).err
        url = cli("redis", "start", **env).out.strip()
        assert url == cli("redis", "url", "-o", "json", **env).row["url"] == EmbeddedServer(folder).url
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        cli("publish", "mail", "good", "--redis-url", "embedded://", **env)
        assert cli("stats", "mail", "-o", "json", "--redis-url", url, **env).row["ready"] == 1
        assert "its data stays" in cli("redis", "stop", **env).err
        assert "no embedded server runs" in cli("redis", "stop", code=4, **env).err
    finally:
        EmbeddedServer(folder).stop()


def test_another_directory_can_be_named(cli, tmp_path):
    url = f"embedded://{tmp_path}/elsewhere"
    try:
        cli("redis", "start", "--redis-url", url)
        assert EmbeddedServer(tmp_path / "elsewhere").running()
    finally:
        assert cli("redis", "stop", "--redis-url", url, "-o", "json").row["stopped"] is True
    assert "embedded://" in cli("redis", "url", "--redis-url", "redis://host", code=2).err


def test_a_directory_that_is_in_use_otherwise_is_left_alone(cli, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    said = cli("redis", "start", "--redis-url", f"embedded://{tmp_path}/full", code=69)
    assert "holds something else" in said.err
