"""``streamq queues``, ``stats``, ``workers``, ``audit``, ``delayed``."""

import json

import pytest

from streamq.cli.watch import Rates
from streamq.store.inspect import QueueStats
from tests.e2e.cli import Cli

FIELDS = {
    "queue", "ready", "pending", "delayed", "dead", "oldest_ready_age_s", "oldest_pending_age_s", "consumers",
    "accepted", "done",
}  # fmt: skip


@pytest.fixture
def cli(empty_server, tmp_path):
    cli = Cli(empty_server("valkey-9.1").url, tmp_path)
    yield cli
    cli.close()


def ensure(cli, queue="mail"):
    """Let the queue have its group, as after its first worker."""
    cli.call(lambda app: app.session.inspector.store(queue).ensure())


def fetch(cli, consumer="ghost", count=1):
    """Hand entries to a worker that does nothing."""
    return cli.redis.xreadgroup("streamq", consumer, {"queue:mail": ">"}, count=count)


def beat(cli, consumer, *, age_ms=0, about=None):
    """A sign of life, so long ago."""
    seconds, micros = cli.redis.time()
    cli.redis.hset("{queue:mail}:workers", consumer, seconds * 1000 + micros // 1000 - age_ms)
    if about is not None:
        cli.redis.hset("{queue:mail}:workers", f"!about:{consumer}", about)


# --- queues, stats


def test_all_configured_and_used_queues_are_listed(cli):
    """With the members of the interface, and whether they are healthy."""
    cli.publish("good", queue="other")
    rows = {row["queue"]: row for row in cli.json("queues")}
    assert rows.keys() == {"mail", "other", "small"}
    assert rows["mail"].keys() >= FIELDS
    assert (rows["mail"]["configured"], rows["mail"]["healthy"]) == (True, True)
    assert (rows["other"]["configured"], rows["other"]["ready"], rows["other"]["healthy"]) == (False, 1, False)
    assert "other" in cli("queues").out


def test_stats_say_where_messages_are(cli):
    ensure(cli)
    cli("publish", "mail", "good", "--count", "3")
    cli("publish", "mail", "good", "--delay", "1h")
    fetch(cli)
    row = cli("stats", "mail", "-o", "json").row
    assert row.keys() == FIELDS
    assert (row["ready"], row["pending"], row["delayed"], row["dead"]) == (2, 1, 1, 0)
    assert 0 <= row["oldest_ready_age_s"] < 60
    assert 0 <= row["oldest_pending_age_s"] < 60
    assert (row["accepted"], row["done"], row["consumers"]) == (4, 0, 0)


def test_stats_count_what_was_done_and_what_died(cli):
    cli.die(count=2)
    cli.publish("good")
    cli.work()
    row = cli("stats", "mail", "-o", "json").row
    assert (row["ready"], row["dead"], row["done"], row["accepted"]) == (0, 2, 1, 3)
    assert (row["oldest_ready_age_s"], row["oldest_pending_age_s"]) == (None, None)


def test_dead_letters_are_counted_again_only_when_something_changed(cli):
    """A look every second must not read a million dead letters every second."""
    cli.die(count=2)

    async def looks(app):
        inspector = app.session.inspector
        seen = [await inspector.dead_by_queue()]
        await inspector.dead_by_queue()
        before = cli.redis.info("commandstats")["cmdstat_evalsha"]["calls"]
        seen.append(await inspector.dead_by_queue())
        assert cli.redis.info("commandstats")["cmdstat_evalsha"]["calls"] == before
        cli.redis.xadd("queue:dead_letter", {"original_queue": "other"})
        seen.append(await inspector.dead_by_queue())
        return seen

    assert cli.call(looks) == [{"mail": 2}, {"mail": 2}, {"mail": 2, "other": 1}]


def test_stats_show_all_queues_in_every_form(cli):
    assert [row["queue"] for row in cli("stats", "-o", "jsonl").lines] == ["mail", "small"]
    assert "oldest_ready_age_s" in cli("stats").out


@pytest.mark.parametrize(
    "words", [["stats", "mial"], ["workers", "mial"], ["audit", "mial"], ["delayed", "list", "mial"]]
)
def test_a_queue_that_nobody_knows_is_not_found(cli, words):
    """With the name that was probably meant."""
    said = cli(*words, code=4)
    assert "did you mean 'mail'?" in said.err
    assert said.out == ""


def test_without_any_queue_the_next_step_is_named(cli):
    cli.config.write_text("{}")
    assert "streamq publish" in cli("queues").err
    assert "there is none yet" in cli("stats", "x", code=4).err
    assert "start one" in cli("workers").err


def test_a_foreign_key_in_the_place_of_a_queue_is_a_failure_not_an_outage(cli):
    cli.redis.set("queue:mail", "mine")
    assert "WRONGTYPE" in cli("stats", "mail", code=1).err


def test_watching_turns_counters_into_rates():
    def stats(accepted, done):
        return QueueStats("q", 0, 0, 0, 0, None, None, 0, accepted, done)

    rates = Rates()
    assert [(row["in_s"], row["out_s"]) for row in rates.rows([stats(10, 5)], 100.0)] == [(None, None)]
    assert [(row["in_s"], row["out_s"]) for row in rates.rows([stats(30, 6)], 102.0)] == [(10.0, 0.5)]


def test_what_never_ends_is_no_json_array(cli):
    assert "jsonl" in cli("stats", "--watch", "-o", "json", code=2).err
    assert "at least 0.1" in cli("stats", "--watch", "--interval", "1ms", code=2).err


# --- workers


def test_workers_are_listed_with_what_they_hold(cli):
    """Those that answer, those that are silent, and those that never said a word but hold something."""
    ensure(cli)
    cli("publish", "mail", "good", "--count", "3")
    fetch(cli, "alive", 2)
    fetch(cli, "ghost")
    beat(cli, "alive", about=json.dumps({"slots": 5, "types": ["good", "bad"], "started_ms": 1763807000000}))
    beat(cli, "dead", age_ms=60_000, about="[]")
    beat(cli, "odd", about="{")
    rows = {row["consumer"]: row for row in cli.json("workers", "mail")}
    assert rows.keys() == {"alive", "dead", "ghost", "odd"}
    alive = rows["alive"]
    assert (alive["queue"], alive["alive"], alive["pending"], alive["slots"]) == ("mail", True, 2, 5)
    assert (alive["types"], alive["started_at"]) == (["good", "bad"], "2025-11-22T10:23:20Z")
    assert (rows["dead"]["alive"], rows["dead"]["slots"]) == (False, None)
    assert 60 <= rows["dead"]["beat_age_s"] < 120
    assert (rows["ghost"]["alive"], rows["ghost"]["beat_age_s"], rows["ghost"]["pending"]) == (False, None, 1)
    assert "good, bad" in cli("workers").out


# --- audit


def test_an_audit_of_sound_books_is_content(cli):
    cli.die()
    cli.redis.xadd("queue:mail", {"payload": '{"type":"good"}'})
    rows = {row["queue"]: row for row in cli.json("audit")}
    assert {name: row["imbalance"] for name, row in rows.items()} == {"mail": 0, "small": 0, "dead_letter": 0}
    mail = rows["mail"]
    assert (mail["accepted"], mail["foreign"], mail["dead"], mail["ready"]) == (1, 1, 1, 1)
    assert (mail["body_imbalance"], mail["deleted_streams"], mail["fenced"]) == (0, [], 0)
    assert (rows["dead_letter"]["dead"], rows["dead_letter"]["ready"]) == (1, 1)
    assert cli("audit", "mail", "-o", "json").row == mail


def test_an_audit_finds_what_left_outside_the_protocol(cli):
    """The exit code tells, stderr says what to do, and --write-off books it."""
    cli("publish", "mail", "good", "--count", "3")
    ((entry, _), *_) = cli.redis.xrange("queue:mail")
    cli.redis.xdel("queue:mail", entry)
    cli.die(queue="other")
    cli.redis.delete("queue:dead_letter")
    said = cli("audit", "-o", "json", code=1)
    assert {row["queue"]: row["imbalance"] for row in said.rows if row["imbalance"]} == {"mail": 1, "dead_letter": 1}
    assert "mail: 1 messages are missing" in said.err
    assert "add --yes" in cli("audit", "--write-off", code=2).err
    rows = {row["queue"]: row for row in cli("audit", "--write-off", "--yes", "-o", "json").rows}
    assert (rows["mail"]["imbalance"], rows["mail"]["written_off"]) == (0, 1)
    assert (rows["dead_letter"]["imbalance"], rows["dead_letter"]["written_off"]) == (0, 1)
    assert "nothing to write off" in cli("audit", "--write-off").err


def test_an_audit_finds_what_is_there_and_should_not_be(cli):
    cli("publish", "mail", "good")
    cli.redis.hincrby("{queue:mail}:ledger", "done", 2)
    said = cli("audit", "mail", code=1)
    assert "2 messages are more than there should be" in said.err
    cli("audit", "mail", "--write-off", "--yes")
    assert cli.ledger()["written_off"] == -2


def test_an_audit_alarms_when_a_stream_or_a_body_is_gone(cli):
    cli("publish", "mail", "good")
    cli("publish", "mail", "good", "--delay", "1h")
    cli.redis.delete("queue:mail", "{queue:mail}:delayed:messages")
    said = cli("audit", "mail", "-o", "json", code=1)
    assert (said.row["deleted_streams"], said.row["body_imbalance"]) == (["normal"], -1)
    assert "ALARM mail: somebody deleted the stream of level normal" in said.err
    assert "-1 bodies" in said.err


# --- delayed


def test_delayed_messages_are_listed_the_next_one_first(cli):
    late = cli.publish("good", delay=7200)
    soon = cli.publish("good", delay=60, priority="low")
    other = cli.publish("good", queue="other", delay=1)
    rows = cli.json("delayed", "list")
    assert [row["id"] for row in rows] == [soon, late, other]
    assert (rows[0]["priority"], rows[0]["type"], rows[0]["retry_count"]) == ("low", "good", 0)
    assert rows[0]["due_at"].endswith("Z")
    assert 0 < rows[0]["due_in_s"] <= 60
    assert [row["id"] for row in cli.json("delayed", "list", "--limit", "1")] == [soon]
    assert [row["id"] for row in cli.json("delayed", "list", "other")] == [other]
    assert soon in cli("delayed", "list").out
    assert cli("delayed", "list", "small").err == "nothing waits\n"


def test_a_long_table_of_delayed_messages_says_so(cli):
    cli("publish", "mail", "good", "--count", "600", "--delay", "1h")
    assert "only the first 100" in cli("delayed", "list").err
    assert len(cli.json("delayed", "list")) == 600


def test_what_somebody_else_put_among_the_delayed_is_shown(cli):
    """Whatever it is."""
    cli.publish("good", delay=60)
    packed = {"no": b"x:broken", "half": b"5:hello", "odd": b"1:a,", "times": b"11:retry_count,99:" + b"9" * 99 + b","}
    cli.redis.hset("{queue:mail}:delayed:messages", mapping=packed)
    cli.redis.zadd("{queue:mail}:delayed", {"no": "inf", "half": "-inf", "odd": 1e300, "times": 1, "none": 2})
    rows = {row["id"]: row for row in cli.json("delayed", "list", "mail")}
    assert len(rows) == 6
    assert [rows[name]["type"] for name in ("no", "half", "odd", "times", "none")] == [None] * 5
    assert rows["times"]["retry_count"] == 0


def test_a_delayed_message_is_cancelled(cli):
    """By its id, also where it waits under a longer name because the id was taken; others stay."""
    first, second = cli.publish("good", delay=60), cli.publish("good", delay=60)
    cli.redis.hset("{queue:mail}:delayed:messages", f"{first}~high-1-0", b"")
    cli.redis.zadd("{queue:mail}:delayed", {f"{first}~high-1-0": 1})
    rows = cli.json("delayed", "cancel", "mail", first)
    assert sorted((row["id"], row["queue"], row["cancelled"]) for row in rows) == [
        (first, "mail", True),
        (f"{first}~high-1-0", "mail", True),
    ]
    assert [row["id"] for row in cli.json("delayed", "list", "mail")] == [second]
    assert cli.ledger()["cancelled"] == 2


def test_what_does_not_wait_cannot_be_cancelled(cli):
    """Exit code 4; the others are cancelled nevertheless. An id is no pattern."""
    waits = cli.publish("good", delay=60)
    said = cli("delayed", "cancel", "mail", "gone", waits, "msg_*", "-o", "json", code=4)
    assert {row["id"]: row["cancelled"] for row in said.rows} == {"gone": False, waits: True, "msg_*": False}
    assert "gone, msg_*" in said.err
    cli.publish("good", delay=60)
    cli("delayed", "cancel", "mail", "msg_*", code=4)
    assert len(cli.json("delayed", "list", "mail")) == 1
    assert "did you mean 'mail'?" in cli("delayed", "cancel", "mial", "x", code=4).err
