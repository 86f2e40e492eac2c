"""Two versions at once, as in every rolling deploy: the previous one from its wheel, and this one."""

import json
import os
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from streamq.store.scripts import NEEDS, PROTOCOL
from tests.e2e.rig import NOTE, QUICK, ROOT
from tests.support import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.faults]

WHEEL = next((Path(__file__).parent / "previous").glob("streamq-*.whl"))
APP = {"STREAMQ_APP": "tests.faults.app_of_versions:app"}
BEATS = {"beat_interval": "200ms", "silent_after": "1s"}


@pytest.fixture(scope="module")
def previous(tmp_path_factory):
    """Variables that make a process run the previous version."""
    folder = tmp_path_factory.mktemp("previous")
    with zipfile.ZipFile(WHEEL) as wheel:
        wheel.extractall(folder)
    return {**APP, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


@pytest.fixture
def mixed(rig, previous):
    """A worker of each version on one queue."""
    rig.configure({**QUICK, "max_length": 0}, worker=BEATS)
    rig.old, rig.new = rig.worker(env=previous), rig.worker(env=APP)
    return rig


def cli(rig, *arguments, env=None):
    """Run a command of either version. Returns its rows."""
    done = subprocess.run(
        [sys.executable, "-m", "streamq", *arguments, "-o", "json"],
        env=rig.environment(**(env or {})), cwd=rig.folder, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def publish_lines(rig, kind, keys, *options, env=None, **payload):
    """Publish from a process of either version."""
    lines = [json.dumps({"type": kind, "key": key, "note": NOTE, **payload}) for key in keys]
    (rig.folder / "lines").write_text("\n".join(lines))
    cli(rig, "publish", "work", "--file", str(rig.folder / "lines"), *options, env=env)


def test_w19_two_versions_share_a_queue(mixed, previous):
    """Workers and publishers of both versions: every message runs once, retried, delayed or not."""
    sent = {}
    for version, env in (("old", previous), ("new", None)):
        kinds = {"ok": {}, "fail_times": {"times": 1}, "sync_slow": {"seconds": 0.01}, "process_slow": {"seconds": 0}}
        for kind, payload in kinds.items():
            sent[kind] = [f"{version}-{kind}-{number}" for number in range(15)]
            publish_lines(mixed, kind, sent[kind], env=env, **payload)
        publish_lines(mixed, "ok", [f"{version}-late-{number}" for number in range(15)], "--delay", "1s", env=env)
    mixed.empty()
    finishes = Counter(mixed.keys_of("F"))
    assert (len(finishes), finishes.total()) == (150, 150)
    assert mixed.ledger()["retried"] == 30
    by_pid = Counter(line.pid in {mixed.new.pid, *mixed.new.children()} for line in mixed.journal if line.event == "F")
    assert set(by_pid) == {True, False}, "both took part"
    audits = [cli(mixed, "audit", "work", env=env) for env in (previous, None)]
    assert [rows[0]["imbalance"] for rows in audits] == [0, 0]


@pytest.mark.parametrize("victim", ["old", "new"])
def test_w19_each_version_takes_over_from_the_other(rig, previous, victim):
    """What a worker of one version held when it was killed, one of the other version runs."""
    rig.configure(QUICK, worker=BEATS)
    first, second = (previous, APP) if victim == "old" else (APP, previous)
    killed = rig.worker(env=first)
    keys = [f"k{number}" for number in range(4)]
    rig.publish("stuck_once", *keys)
    wait_until(lambda: len(rig.keys_of("S")) == len(keys))
    survivor = rig.worker(env=second)
    killed.kill()
    rig.finished(*keys)
    rig.empty()
    assert Counter(rig.keys_of("S")) == dict.fromkeys(keys, 2)
    assert {line.pid for line in rig.journal if line.event == "F"} == {survivor.pid}


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_w19_two_versions_agree_on_what_kills_workers(mixed, previous):
    """A message that kills workers of both versions is convicted, and nothing that ran beside it."""
    mixed.publish("crash", "bad")
    mixed.publish("slow", *(f"good{number}" for number in range(20)), payload={"seconds": 0.2})

    def convicted():
        for worker in (mixed.old, mixed.new):
            if worker.code is not None:
                replacement = mixed.start(env=previous if worker is mixed.old else APP)
                mixed.old, mixed.new = (replacement, mixed.new) if worker is mixed.old else (mixed.old, replacement)
        return mixed.dead()

    wait_until(convicted, 120)
    mixed.empty(seconds=60)
    assert [letter["reason"] for letter in mixed.dead()] == ["poison"]
    assert set(mixed.keys_of("F")) == {f"good{number}" for number in range(20)}


def test_w19_everybody_sees_who_can_do_what(mixed, previous):
    """Workers say their version and their types, and each version reads what the other says."""
    for env in (previous, None):
        rows = {row["consumer"]: row for row in cli(mixed, "workers", "work", env=env)}
        assert set(rows) == {mixed.consumer(mixed.old), mixed.consumer(mixed.new)}
        assert all("fail_times" in row["types"] and row["alive"] for row in rows.values())
    assert rows[mixed.consumer(mixed.new)]["protocol"] == PROTOCOL
    assert rows[mixed.consumer(mixed.old)]["protocol"] is None, "the first version did not say it"


def test_w19_a_worker_that_is_too_old_does_not_begin(rig):
    """It would misread what a newer version left: it ends with a word on what to do, and takes nothing."""
    rig.publish("ok", "k")
    worker = rig.worker()
    rig.finished("k")
    worker.stop()
    assert int(rig.redis.hget("{queue:work}:workers", "!needs")) == NEEDS
    rig.redis.hset("{queue:work}:workers", "!needs", PROTOCOL + 1)
    number = rig.publish("ok", "later")[0].id
    worker = rig.start()
    assert worker.ended() == 78
    assert worker.said("upgrade this worker")
    assert [fields[b"id"].decode() for _, fields in rig.redis.xrange("queue:work")] == [number]
