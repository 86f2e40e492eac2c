"""A full queue, with three processes that publish at once: what was accepted is what lies there, to the last one."""

import json
import subprocess
import sys
from collections import Counter

import pytest

pytestmark = pytest.mark.e2e

ROOM, EACH, WRITERS = 50, 100, ("a", "b", "c")


def publish_at_once(rig):
    """Let all writers publish. Returns what they say became of their messages."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.publisher", name, str(EACH)],
            env=rig.environment(), cwd=rig.folder, stdout=subprocess.PIPE, text=True,
        )
        for name in WRITERS
    ]  # fmt: skip
    total = Counter()
    for process in processes:
        said, _ = process.communicate(timeout=40)
        assert process.returncode == 0
        total.update(json.loads(said))
    return total


def test_reject_refuses_what_has_no_room(rig):
    rig.configure({"max_length": ROOM, "on_full": "reject"})
    assert publish_at_once(rig) == {"accepted": ROOM, "refused": 3 * EACH - ROOM}
    assert rig.left() == ROOM
    rig.worker()
    rig.empty()
    assert rig.ledger()["done"] == ROOM


def test_block_waits_until_there_is_room(rig):
    rig.configure({"max_length": ROOM, "on_full": "block", "block_timeout": "30s"})
    rig.worker("--concurrency", "20")
    assert publish_at_once(rig) == {"accepted": 3 * EACH}
    rig.empty()
    assert sorted(rig.keys_of("F")) == sorted(f"{name}-{number}" for name in WRITERS for number in range(EACH))


def test_block_gives_up_in_the_end(rig):
    rig.configure({"max_length": ROOM, "on_full": "block", "block_timeout": "300ms"})
    said = publish_at_once(rig)
    assert said == {"accepted": ROOM, "refused": 3 * EACH - ROOM}


@pytest.mark.parametrize("with_worker", [False, True])
def test_drop_oldest_accepts_everything_and_counts_what_goes(rig, with_worker):
    rig.configure({"max_length": ROOM, "on_full": "drop_oldest"})
    if with_worker:
        rig.worker("--concurrency", "5")
    said = publish_at_once(rig)
    if with_worker:
        rig.empty()
    ledger = rig.ledger()
    assert said["accepted"] == ledger["accepted"]
    assert said["accepted"] == ledger.get("done", 0) + ledger.get("evicted", 0) + rig.left()
    if not with_worker:
        assert said == {"accepted": 3 * EACH}
        assert (rig.left(), ledger["evicted"]) == (ROOM, 3 * EACH - ROOM)


def test_more_messages_at_once_than_there_is_room_leave_the_newest(rig):
    rig.configure({"max_length": ROOM, "on_full": "drop_oldest"})
    rig.publish("ok", *(f"m{number}" for number in range(1200)))
    assert rig.left() == ROOM
    rig.worker()
    rig.empty()
    assert sorted(rig.keys_of("F")) == sorted(f"m{number}" for number in range(1200 - ROOM, 1200))
    assert rig.ledger()["evicted"] == 1200 - ROOM
