"""Time limits, wherever a handler runs: tried again, then dead with reason `timeout`; the worker lives."""

import os

import pytest

from tests.e2e.rig import QUICK
from tests.support import wait_until

pytestmark = pytest.mark.e2e


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_time_limit_ends_whatever_can_be_ended(rig):
    """All kinds at once, since each needs its seconds: a coroutine, a child process, a thread, and one that clings."""
    rig.configure({**QUICK, "ack_timeout": "1s", "max_retries": 1})
    worker = rig.worker("--concurrency", "6")
    rig.publish("slow", "async", payload={"seconds": 60})
    rig.publish("process_slow", "process", payload={"seconds": 60})
    rig.publish("sync_slow", "thread", payload={"seconds": 15}, max_retries=0)
    rig.publish("stubborn", "clings", payload={"seconds": 15}, max_retries=0)
    rig.publish("sync_slow", "late-but-done", payload={"seconds": 2})
    rig.publish("gated", "own-limit", timeout=0.2, max_retries=0)
    wait_until(lambda: len(rig.dead()) == 5, 40)
    letters = {letter["original_id"]: letter for letter in rig.dead()}
    assert {letter["reason"] for letter in letters.values()} == {"timeout"}
    starts = rig.keys_of("S")
    assert {key: starts.count(key) for key in set(starts)} == {
        "async": 2, "process": 2, "thread": 1, "clings": 1, "late-but-done": 1, "own-limit": 1
    }  # fmt: skip
    children = [line.pid for line in rig.journal if line.key == "process"]
    assert len(set(children)) == 2
    assert worker.pid not in children
    assert not any(map(alive, children))
    assert "late-but-done" in rig.keys_of("F")
    rig.publish("ok", "next")
    rig.finished("next")
    rig.empty()
    assert worker.code is None


def test_a_thread_that_clings_keeps_its_slot_and_its_message_moves_on(rig):
    """A thread cannot be stopped: another one takes the message over while this worker runs one handler less."""
    rig.configure({**QUICK, "ack_timeout": "500ms", "max_retries": 1})
    rig.worker("--concurrency", "1")
    rig.publish("sync_stuck_once", "clings")
    rig.started("clings")
    rig.publish("ok", "behind")
    wait_until(lambda: rig.ledger().get("retried") == 1, 15)
    assert rig.keys_of("S") == ["clings"]
    rig.worker("--concurrency", "1")
    wait_until(lambda: rig.keys_of("S").count("clings") == 2)
    rig.finished("behind")
    rig.empty()
    assert rig.keys_of("F").count("clings") == 1  # the first one still runs
    rig.open()
