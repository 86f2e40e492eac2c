"""``streamq dlq``, and the same in Python."""

import base64
import json
import stat
import time

import pytest

from streamq.core.errors import QueueFull
from streamq.replaying import Filter
from tests.e2e.cli import KEYS, Cli

SIGNED = (b"id", b"queue", b"priority", b"payload", b"metadata", b"signature")


@pytest.fixture
def cli(empty_server, tmp_path):
    cli = Cli(empty_server("valkey-9.1").url, tmp_path, keys=KEYS)
    yield cli
    assert {row["queue"]: row["imbalance"] for row in cli("audit", "-o", "json").rows if row["imbalance"]} == {}
    cli.close()


def bury(cli, **fields):
    """A dead letter as somebody else's worker might have written it, in our books."""
    told = {"original_queue": "mail", "original_id": "x", "reason": "malformed", "failed_at": "1763807000000", **fields}
    cli.redis.sadd("queue:names", "mail")
    cli.redis.hincrby("{queue:mail}:ledger", "accepted", 1)
    cli.redis.hincrby("{queue:mail}:ledger", "dead", 1)
    return cli.redis.xadd("queue:dead_letter", told).decode()


# --- list, show


def test_a_dead_letter_is_listed_with_every_field(cli):
    """JSON rows carry the fields of the protocol, the signed ones exactly."""
    (message_id,) = cli.die("bad", payload={"why": "no such mailbox"})
    row = cli("dlq", "list", "-o", "json").row
    ((dlq_id, fields),) = cli.letters().items()
    assert (row["dlq_id"], row["original_id"], row["original_queue"]) == (dlq_id, message_id, "mail")
    assert (row["reason"], row["type"], row["retry_count"], row["deliveries"]) == ("rejected", "bad", 0, 0)
    assert row["error"] == "no such mailbox" or "no such mailbox" in row["error"]
    assert row["failed_at"].endswith("Z")
    assert row["original_entry"] == fields[b"original_entry"].decode()
    assert all(row[name.decode()].encode() == fields[name] for name in SIGNED)
    assert {"traceback", "worker", "fingerprint", "raw"} <= row.keys()


def test_the_table_shows_a_few_columns_and_obeys_no_message(cli):
    """What a handler's error says is shown, never sent to the terminal."""
    cli.die("broken")
    said = cli("dlq", "list")
    assert "max_retries" in said.out
    assert "boom" in said.out
    assert "\x1b" not in said.out
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in said.out
    assert r"\x1b" in said.out


def test_letters_are_chosen_by_filters_and_ids(cli):
    bad = cli.die("bad", 2)
    cli.die("broken")
    cli.die("bad", queue="other")
    old = bury(cli, payload='{"type":"old"}')

    def ids(*words):
        return [row["original_id"] for row in cli.json("dlq", "list", *words)]

    assert len(ids()) == 5
    assert ids("--queue", "mail", "--reason", "rejected") == bad
    assert len(ids("--type", "broken")) == 1
    assert ids("--older-than", "1h") == ["x"]
    assert len(ids("--newer-than", "1h")) == 4
    assert ids("--limit", "1") == bad[:1]
    assert ids(bad[1]) == bad[1:]
    assert ids(old) == ["x"]
    assert sorted(ids(old, bad[0])) == sorted(["x", bad[0]])
    assert cli("dlq", "list", "--queue", "nobody").err == "no dead letter matches\n"
    assert cli("dlq", "list", "--queue", "nobody", "-o", "json").rows == []


def test_an_id_that_is_not_there_is_not_found(cli):
    """Also when others are: those are listed all the same."""
    (there,) = cli.die()
    said = cli("dlq", "list", there, "gone", "-o", "json", code=4)
    assert said.row["original_id"] == there
    assert "gone" in said.err
    for words in (
        ["show", "gone"],
        ["show", "12345-0"],
        ["replay", "gone"],
        ["purge", "gone", "--yes"],
        ["export", "gone"],
    ):
        assert "no such dead letter" in cli("dlq", *words, code=4).err


def test_a_reason_that_does_not_exist_is_a_usage_error(cli):
    said = cli("dlq", "list", "--reason", "failed", code=2)
    assert "max_retries, rejected" in " ".join(said.err.split())


def test_a_long_table_ends_with_a_word_about_the_rest(cli):
    for n in range(101):
        bury(cli, original_id=f"x{n}")
    said = cli("dlq", "list")
    assert "x99" in said.out
    assert "x100" not in said.out
    assert "only the first 100" in said.err
    assert len(cli.json("dlq", "list")) == 101


def test_show_prints_one_letter_whole(cli):
    """With the payload set out to be read, by either id."""
    (message_id,) = cli.die("broken", payload={"deep": {"er": [1]}})
    ((dlq_id, _),) = cli.letters().items()
    said = cli("dlq", "show", message_id)
    assert said.out == cli("dlq", "show", dlq_id).out
    assert '    "er": [' in said.out
    assert "RuntimeError" in said.out
    assert "test" in said.out or "cli.py" in said.out
    assert "\x1b" not in said.out
    assert cli("dlq", "show", dlq_id, "-o", "json").row["original_id"] == message_id


def test_show_copes_with_bytes_that_are_no_text(cli):
    dlq_id = bury(cli, raw=b"\xff\xfe", error="not \x07 readable")
    said = cli("dlq", "show", dlq_id)
    assert base64.b64encode(b"\xff\xfe").decode() in said.out
    assert "\x07" not in said.out
    assert cli("dlq", "show", dlq_id, "-o", "json").row["raw"] == {"base64": "//4="}


# --- replay


def test_replay_brings_back_the_same_bytes(cli):
    """Every signed byte and the signature; the retries begin anew; the letter is gone."""
    (message_id,) = cli.die()
    (letter,) = cli.letters().values()
    row = cli("dlq", "replay", "-o", "json").row
    assert (row["original_id"], row["queue"], row["fate"], row["why"]) == (message_id, "mail", "replayed", None)
    ((_, fields),) = cli.redis.xrange("queue:mail")
    assert {name: fields[name] for name in SIGNED} == {name: letter[name] for name in SIGNED}
    assert fields[b"retry_count"] == b"0"
    assert cli.letters() == {}


def test_a_dry_run_changes_nothing(cli):
    cli.die(count=2)
    said = cli("dlq", "replay", "--dry-run")
    assert "allowed" in said.out
    assert len(cli.letters()) == 2
    assert cli.redis.xlen("queue:mail") == 0


def test_what_dies_again_is_not_replayed_twice(cli):
    """A replay ends, although letters come back while it goes on."""
    for n in range(3):
        bury(cli, original_id=f"x{n}", payload='{"type":"bad"}')

    async def replay(app):
        fates = []
        async for fate in app.dead_letters.replay_matching(Filter(), rate=10, force=True):
            bury(cli, original_id="again", payload='{"type":"bad"}')
            fates.append(fate)
        return fates

    cli.keys = ""
    assert [fate.original_id for fate in cli.call(replay)] == ["x0", "x1", "x2"]
    cli("dlq", "purge", "--yes")


def test_a_letter_is_refused_whose_signature_does_not_hold(cli):
    """Each refusal has its reason, the others go, and the exit code tells."""
    cli.die()
    forged = dict(next(iter(cli.letters().values()))) | {b"payload": b'{"type":"good"}', b"original_id": b"forged"}
    bury(cli, **{name.decode(): value for name, value in forged.items()})
    said = cli("dlq", "replay", "-o", "json", code=1)
    fates = {row["original_id"]: (row["fate"], row["why"]) for row in said.rows}
    assert fates.pop("forged") == ("refused", "its signature does not hold (bad_signature)")
    assert [fate for fate, _ in fates.values()] == ["replayed"]
    table = cli("dlq", "replay", code=1)
    assert "refused:" in table.err
    assert "forged" in table.out
    assert cli("dlq", "replay", "--force", "-o", "json").row["fate"] == "replayed"


def test_what_was_unreadable_comes_back_by_force_alone(cli):
    raw = b"5:hello,5:world,"
    bury(cli, raw=raw, original_id="raw")
    bury(cli, raw=b"broken", original_id="hopeless")
    said = cli("dlq", "replay", "-o", "json", code=1)
    assert {row["why"] for row in said.rows} == {"its fields were unreadable; --force puts them back as they were"}
    fates = {row["original_id"]: row["fate"] for row in cli("dlq", "replay", "--force", "-o", "json", code=1).rows}
    assert fates == {"raw": "replayed", "hopeless": "refused"}
    assert cli.redis.xrange("queue:mail")[0][1] == {b"hello": b"world"}


def test_a_queue_that_never_was_needs_another(cli):
    bury(cli, queue="elsewhere", payload='{"type":"good"}')
    said = cli("dlq", "replay", code=1)
    assert "--to QUEUE" in said.out


def test_what_is_not_signed_would_be_refused_again(cli):
    bury(cli, payload='{"type":"good"}', reason="unsigned")
    assert "not signed" in cli("dlq", "replay", "-o", "json", code=1).row["why"]


def test_replay_elsewhere_is_a_new_message(cli):
    """With a header that tells where it came from, signed for its new queue, and the letter is purged."""
    cli.die(payload={"n": 1}, correlation_id="case", timeout=7, max_retries=0, headers={"own": "header"})
    ((dlq_id, letter),) = cli.letters().items()
    row = cli("dlq", "replay", "--to", "fresh", "-o", "json").row
    assert (row["queue"], row["fate"]) == ("fresh", "replayed")
    ((_, fields),) = cli.redis.xrange("queue:fresh")
    assert fields[b"id"].decode() == row["id"] != row["original_id"]
    assert fields[b"payload"] == letter[b"payload"]
    metadata = json.loads(fields[b"metadata"])
    assert metadata["headers"] == {"own": "header", "replayed_from": dlq_id}
    assert (metadata["correlation_id"], metadata["timeout"], metadata["max_retries"]) == ("case", 7000, 0)
    assert fields[b"signature"] != letter[b"signature"]
    assert cli.letters() == {}
    assert int(cli.redis.hget("{queue:dead_letter}:ledger", "purged")) == 1


def test_replay_elsewhere_survives_a_crash_between_its_two_steps(cli):
    """The letter is still there: the next try purges it and publishes nothing twice."""
    cli.die()
    ((dlq_id, letter),) = cli.letters().items()
    cli("dlq", "replay", "--to", "fresh")
    cli.redis.xadd("queue:dead_letter", letter, id="*")
    again = next(iter(cli.letters()))
    cli.redis.rename(f"{{queue:fresh}}:once:replayed_from:{dlq_id}", f"{{queue:fresh}}:once:replayed_from:{again}")
    cli.redis.hincrby("{queue:mail}:ledger", "accepted", 1)
    cli.redis.hincrby("{queue:mail}:ledger", "dead", 1)
    cli("dlq", "replay", "--to", "fresh")
    assert cli.redis.xlen("queue:fresh") == 1
    assert cli.letters() == {}


def test_nobody_elses_order_becomes_ours_by_way_of_another_queue(cli):
    """Publishing anew would put our signature below it: that takes --force."""
    (honest,) = cli.die()
    letter = {name.decode(): value for name, value in next(iter(cli.letters().values())).items()}
    bury(cli, **letter | {"payload": '{"type":"good"}', "original_id": "forged"})
    bury(cli, payload='{"type":"good"}', original_id="unsigned", metadata="{broken")
    bury(cli, raw="6:broken,", original_id="raw")
    bury(cli, payload=json.dumps({"type": "t", "x": "y" * 300_000}), original_id="large")

    rows = cli("dlq", "replay", "--to", "fresh", "-o", "json", code=1).rows
    whys = {row["original_id"]: row["why"] for row in rows}
    assert whys.pop(honest) is None
    assert "bad_signature" in whys["forged"]
    assert "not signed" in whys["unsigned"]
    assert "no readable payload" in whys["raw"]

    rows = cli("dlq", "replay", "--to", "fresh", "--force", "-o", "json", code=1).rows
    fates = {row["original_id"]: row["fate"] for row in rows}
    assert fates == {"forged": "replayed", "unsigned": "replayed", "raw": "refused", "large": "refused"}
    assert cli.redis.xlen("queue:fresh") == 3


def test_a_full_queue_ends_a_replay_and_loses_nothing(cli):
    cli.die(count=5)
    said = cli("dlq", "replay", "--to", "small", code=1)
    assert "max_length" in said.err
    assert (len(cli.letters()), cli.redis.xlen("queue:small")) == (2, 3)

    async def replay(app):
        return [fate async for fate in app.dead_letters.replay_matching(to="small")]

    with pytest.raises(QueueFull):
        cli.call(replay)


def test_a_rate_holds_the_replay_back(cli):
    """Evenly, in steps of a tenth of a second."""
    cli.die(count=6)
    started = time.monotonic()
    cli("dlq", "replay", "--rate", "20")
    assert time.monotonic() - started >= 0.2
    assert "rate" in cli("dlq", "replay", "--rate", "0", code=2).err


def test_a_letter_that_somebody_else_was_faster_with_is_gone(cli):
    cli.die(count=2)

    async def replay(app):
        letters = [letter async for letter in app.dead_letters.list()]
        first = await app.dead_letters.replay(letters[:1])
        return first, await app.dead_letters.replay(letters, rate=1000), await app.dead_letters.purge(letters)

    assert cli.call(replay) == ({"OK": 1}, {"GONE": 1, "OK": 1}, 0)


def test_a_letter_that_goes_while_it_is_looked_at_is_gone(cli):
    """That is no failure: somebody else did what was asked for."""
    cli.die()

    async def replay(app):
        box = app.dead_letters

        async def refusal_to(letter, *_, **__):
            await box.purge([letter])

        box.refusal_to = refusal_to
        return [fate.fate async for fate in box.replay_matching()]

    assert cli.call(replay) == ["gone"]


# --- purge


def test_purge_asks_first(cli):
    """Where nobody can answer, nothing is deleted without --yes."""
    cli.die(count=2)
    said = cli("dlq", "purge", code=2)
    assert "--yes" in said.err
    assert cli("dlq", "purge", "--dry-run", "-o", "json").row == {"queue": "mail", "reason": "rejected", "letters": 2}
    assert len(cli.letters()) == 2
    said = cli("dlq", "purge", "--yes")
    assert "2 purged" in said.err
    assert cli.letters() == {}
    assert cli("dlq", "purge", "--yes", "-o", "json").rows == []


def test_purge_takes_only_what_is_meant(cli):
    first, second = cli.die(count=2)
    cli("dlq", "purge", first, "--yes")
    assert [row["original_id"] for row in cli.json("dlq", "list")] == [second]

    async def purge(app):
        return await app.dead_letters.purge_matching(Filter(reason="poison")), await app.dead_letters.purge_matching()

    assert cli.call(purge) == (0, 1)


# --- export


def test_export_is_byte_exact(cli, tmp_path):
    """What is UTF-8 is text, the rest base64; a file is new and private."""
    bury(cli, raw=b"\x00\xff", error="\N{SNOWMAN} \x00 \x1b", own="field")
    cli.die()
    (dlq_id, fields), _ = cli.letters().items()

    def back(value):
        return base64.b64decode(value["base64"]) if isinstance(value, dict) else value.encode()

    first, second = cli("dlq", "export").lines
    assert first.pop("dlq_id") == dlq_id
    assert {name.encode(): back(value) for name, value in first.items()} == fields
    assert second["original_queue"] == "mail"
    assert len(cli("dlq", "export", "-o", "json").rows) == 2

    file = tmp_path / "dead.jsonl"
    said = cli("dlq", "export", "--queue", "mail", "--file", str(file))
    assert "2 dead letters written" in said.err
    assert said.out == ""
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(file.read_text().splitlines()) == 2
    assert "exists already" in cli("dlq", "export", "--file", str(file), code=2).err
    assert "No such file" in cli("dlq", "export", "--file", str(tmp_path / "no" / "where"), code=1).err
