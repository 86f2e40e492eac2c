"""``streamq publish``."""

import json

import pytest

from streamq.testing.server import PrivateServer
from tests.e2e.cli import KEYS, Cli
from tests.support import server_binary


@pytest.fixture
def cli(empty_server, tmp_path):
    cli = Cli(empty_server("valkey-9.1").url, tmp_path)
    yield cli
    cli.close()


def test_a_message_is_accepted_with_a_receipt(cli):
    """The receipt names the message, and the message lies in its queue with its type first."""
    row = cli("publish", "mail", "good", "--json", '{"to": "a@b.c"}', "-o", "json").row
    assert row == {"id": row["id"], "queue": "mail", "duplicate": False}
    ((_, fields),) = cli.redis.xrange("queue:mail")
    assert fields[b"id"].decode() == row["id"]
    assert fields[b"payload"] == b'{"type":"good","to":"a@b.c"}'
    assert b"signature" not in fields


def test_without_json_the_payload_is_the_type_alone(cli):
    cli("publish", "mail", "good")
    assert cli.payloads() == [b'{"type":"good"}']


def test_values_keep_their_spelling(cli):
    """No number is rounded on its way through us."""
    cli("publish", "mail", "t", "--json", '{"n": 123456789012345678901234567890, "x": 1.10}')
    assert cli.payloads() == [b'{"type":"t","n":123456789012345678901234567890,"x":1.10}']


def test_every_option_reaches_the_message(cli):
    timing = ["--delay", "5m", "--timeout", "30s", "--expires", "1h", "--max-retries", "7", "--priority", "high"]
    names = ["--correlation-id", "case", "--message-id", "m-1", "--idempotency-key", "once"]
    assert cli("publish", "mail", "good", *timing, *names, "-o", "jsonl").lines == [
        {"id": "m-1", "queue": "mail", "duplicate": False}
    ]
    (waiting,) = cli.json("delayed", "list", "mail")
    assert (waiting["id"], waiting["priority"], waiting["type"]) == ("m-1", "high", "good")
    assert 290 < waiting["due_in_s"] <= 300
    packed = cli.redis.hget("{queue:mail}:delayed:messages", "m-1").decode()
    metadata = json.loads(packed[packed.index('{"created_at') : packed.rindex("}") + 1])
    assert (metadata["max_retries"], metadata["timeout"], metadata["correlation_id"]) == (7, 30000, "case")
    assert metadata["expires_at"] > metadata["created_at"]
    assert cli("publish", "mail", "good", "--message-id", "m-1", "-o", "json").row["duplicate"] is True
    again = cli("publish", "mail", "good", "--idempotency-key", "once", "-o", "json").row
    assert (again["id"], again["duplicate"]) == ("m-1", True)


def test_what_is_not_durable_is_told_and_can_be_repeated(cli):
    """The receipt is printed nevertheless: the message lies in Redis. The same id asks once more."""
    said = cli("publish", "mail", "good", "--durable", "replica", "-o", "json", code=1)
    assert "no replica is connected" in said.err
    again = cli("publish", "mail", "good", "--durable", "fsync", "--message-id", said.row["id"], "-o", "json", code=1)
    assert again.row == said.row | {"duplicate": True}
    assert "CONFIG SET appendonly yes" in again.err
    assert cli("publish", "mail", "good", "--durable", "memory", STREAMQ_QUEUES__MAIL__DURABLE="fsync").code == 0
    assert len(cli.payloads()) == 2


def test_of_many_those_that_are_not_durable_are_counted(cli, tmp_path):
    """Nothing is read on where nothing is confirmed."""
    lines = tmp_path / "lines"
    lines.write_text('{"n": 1}\n' * 600)
    said = cli("publish", "mail", "good", "--file", str(lines), "--durable", "replica", "-o", "jsonl", code=1)
    assert len(said.lines) == len(cli.payloads()) == 500
    assert "mail: 500 accepted, 0 duplicates, 0 not accepted, 500 not confirmed as durable" in said.err
    assert f"stopped after {lines}:500" in said.err


def test_a_disk_confirms_what_is_published(tmp_path):
    """Also when the queue asks for it in the environment."""
    args = ["--appendonly", "yes", "--appendfsync", "always"]
    with PrivateServer(server_binary("valkey-9.1"), args=args) as server:
        cli = Cli(server.url, tmp_path)
        assert cli("publish", "mail", "good", "--durable", "fsync", "-o", "json").row["duplicate"] is False
        assert cli("publish", "mail", "good", STREAMQ_DEFAULTS__DURABLE="fsync").code == 0
        cli.close()


def test_options_can_come_from_variables(cli):
    """Every option has its variable."""
    row = cli(
        "publish",
        "mail",
        "good",
        STREAMQ_OUTPUT="json",
        STREAMQ_PUBLISH_MESSAGE_ID="m-2",
        STREAMQ_PUBLISH_PRIORITY="low",
    ).row
    assert row["id"] == "m-2"
    assert cli.redis.xlen("{queue:mail}:low") == 1


def test_what_is_published_is_signed_once_there_is_a_key(cli):
    cli.keys = KEYS
    cli("publish", "mail", "good")
    ((_, fields),) = cli.redis.xrange("queue:mail")
    assert fields[b"signature"].startswith(b"v1,k1,")


def test_count_publishes_so_many_with_ids_of_their_own(cli):
    rows = cli.json("publish", "mail", "good", "--count", "1200")
    assert len({row["id"] for row in rows}) == 1200 == cli.redis.xlen("queue:mail")


def test_lines_of_a_file_are_published_in_their_order(cli, tmp_path):
    """TYPE stands in for lines that do not say theirs; empty lines are nothing."""
    file = tmp_path / "lines.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"n": 1}\n\n  \n{"type": "t", "n": 2}\r\n{"n": 3}')
    said = cli("publish", "mail", "t", "--file", str(file), "-o", "json")
    assert len(said.rows) == 3
    assert [json.loads(payload)["n"] for payload in cli.payloads()] == [1, 2, 3]
    assert "mail: 3 accepted, 0 duplicates, 0 not accepted" in said.err


def test_bad_lines_are_named_and_the_others_are_published(cli):
    """Nothing else is lost, every bad line is told with its number, and the exit code says that something was wrong."""
    lines = ['{"type":"a"}', "nope", '{"type":"b"}', "[1]", '{"no":"type"}', '{"type":5}', '{"type":"\ud800"}']
    text = "\n".join(lines).encode("utf-8", "surrogatepass") + b"\n" + b'{"x":' + b"[" * 2000 + b"\n"
    said = cli("publish", "mail", "--file", "-", "-o", "json", input=text, code=1)
    assert len(said.rows) == 2
    told = [line.split(": ", 1)[0] for line in said.err.splitlines() if line.startswith("stdin:")]
    assert told == ["stdin:2", "stdin:4", "stdin:5", "stdin:6", "stdin:7", "stdin:8"]
    assert "stdin:5: there is no type" in said.err
    assert "2 accepted, 0 duplicates, 6 not accepted" in said.err


def test_a_line_of_another_type_than_asked_for_is_refused(cli):
    said = cli("publish", "mail", "a", "--file", "-", input='{"type":"b"}\n', code=1)
    assert "stdin:1: its type is 'b' and TYPE is 'a'" in said.err


def test_many_bad_lines_do_not_flood_the_screen(cli):
    said = cli("publish", "mail", "--file", "-", input="nope\n" * 100, code=1)
    assert said.err.count("stdin:") == 20
    assert "and 80 more" in said.err


def test_a_large_message_is_refused_and_the_next_line_is_not(cli):
    text = json.dumps({"x": "y" * 300_000}) + '\n{"x": 1}\n'
    said = cli("publish", "mail", "t", "--file", "-", "-o", "json", input=text, code=1)
    assert len(said.rows) == 1
    assert "stdin:1: a message of" in said.err
    assert "max_size" in said.err


def test_a_full_queue_stops_the_file_and_says_where(cli):
    """What was accepted has its receipt; what was not is named, so that the rest can be sent later."""
    said = cli("publish", "small", "t", "--file", "-", "-o", "json", input='{"n":1}\n' * 5, code=1)
    assert len(said.rows) == 3
    assert "stdin:4: small holds 3 messages" in said.err
    assert "stopped after stdin:5" in said.err


def test_a_message_that_nobody_could_accept_is_a_usage_error(cli):
    said = cli("publish", "mail", "t", "--message-id", "with space", "-o", "json", code=2)
    assert said.rows == []
    assert "allowed" in said.err
    assert "max_size" in cli("publish", "mail", "t", "--json", json.dumps({"x": "y" * 300_000}), code=1).err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["Bad Name", "t"], "no name for a queue"),
        (["dead_letter", "t"], "reserved"),
        (["mail"], "say what to publish"),
        (["mail", "t", "--json", "{"], "--json"),
        (["mail", "t", "--json", "[]"], "JSON object"),
        (["mail", "--json", "{}"], "there is no type"),
        (["mail", "t", "--json", '{"type": "u"}'], "leave one of them away"),
        (["mail", "t", "--json", "{}", "--file", "-"], "not both"),
        (["mail", "t", "--file", "-", "--count", "2"], "--count"),
        (["mail", "t", "--count", "2", "--message-id", "m"], "for one message"),
        (["mail", "t", "--count", "0"], "count"),
        (["mail", "t", "--delay", "soon"], "500ms, 30s, 5m"),
        (["mail", "t", "--priority", "urgent"], "critical"),
        (["mail", "t", "-o", "xml"], "jsonl"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(cli, words, told):
    """Exit code 2, the reason on stderr, and nothing is written."""
    said = cli("publish", *words, code=2)
    assert told in " ".join(said.err.split())
    assert said.out == ""
    assert cli.redis.keys() == []


def test_a_file_that_is_not_there_is_not_found(cli, tmp_path):
    assert "no such file" in cli("publish", "mail", "t", "--file", str(tmp_path / "none"), code=4).err
    assert "directory" in cli("publish", "mail", "t", "--file", str(tmp_path), code=1).err


def test_a_new_queue_is_made_with_a_word_about_it(cli):
    """A misspelt name would come into being in silence otherwise."""
    assert "did you mean mail?" in cli("publish", "mial", "good").err
    assert "note" not in cli("publish", "mial", "good").err
