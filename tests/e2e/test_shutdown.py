"""The end of a worker: what runs may finish, what has not begun goes back at once, nothing is lost at any moment."""

import random
import signal
import time

import pytest

from tests.e2e.rig import Publishing
from tests.support import wait_until

pytestmark = pytest.mark.e2e


def test_sigterm_lets_handlers_finish_and_leaves_no_trace(rig):
    worker = rig.worker("--concurrency", "2")
    rig.publish("gated", "a", "b", "c", "d")
    rig.started("a", "b")
    rig.listening(0)
    worker.signal(signal.SIGTERM)
    wait_until(lambda: worker.said("stopping: finishing 2 messages"))
    rig.open()
    assert worker.ended() == 0
    assert sorted(rig.keys_of("F")) == sorted(rig.keys_of("S")) == ["a", "b"]
    assert rig.consumers() == []
    assert [rig.redis.xinfo_consumers(stream, "streamq") for stream in rig.streams()] == [[], [], [], []]
    rig.worker("--concurrency", "2")
    rig.finished("c", "d")
    rig.empty()
    assert set(rig.ledger()) == {"accepted", "added:normal", "done"}


def test_what_has_not_begun_is_run_by_another_worker_at_once(rig):
    """A suspect waits until it is alone, and whoever came after it waits, too. Both go back when the drain begins."""
    leaving = rig.worker("--concurrency", "4")
    rig.publish("gated", "running")
    rig.started("running")
    rig.open("its own")
    rig.add(rig.entry("gated_here", "suspect", payload={"gate": "its own"}), deliveries="2")
    rig.publish("ok", "innocent")
    wait_until(lambda: rig.pending() == 3)
    other = rig.worker("--concurrency", "4")
    assert rig.keys_of("S") == ["running"]
    leaving.signal(signal.SIGTERM)
    rig.finished("suspect", "innocent", seconds=5)
    assert leaving.code is None
    rig.open()
    assert leaving.ended() == 0
    rig.empty()
    assert {line.key: line.pid for line in rig.journal if line.event == "S"} == {
        "running": leaving.pid, "suspect": other.pid, "innocent": other.pid
    }  # fmt: skip
    assert rig.ledger()["released"] == 2


@pytest.mark.parametrize("how", ["drain timeout", "second SIGTERM", "second SIGINT"])
def test_work_that_is_cut_short_is_handed_back_without_an_attempt(rig, how):
    timeout = "1s" if how == "drain timeout" else "1h"
    number = signal.SIGINT if how == "second SIGINT" else signal.SIGTERM
    worker = rig.worker("--concurrency", "2", "--drain-timeout", timeout)
    rig.publish("gated", "a", "b")
    rig.started("a", "b")
    worker.signal(number)
    if how != "drain timeout":
        wait_until(lambda: worker.said("stopping: finishing 2 messages"))
        worker.signal(number)
    assert worker.ended(15) == (130 if how == "second SIGINT" else 75)
    assert sorted(rig.keys_of("C")) == ["a", "b"]
    assert rig.pending() == 0
    assert rig.consumers() == []
    rig.open()
    rig.worker("--concurrency", "2")
    rig.finished("a", "b")
    rig.empty()
    assert {line.attempt for line in rig.journal} == {1}
    assert rig.ledger()["released"] == 2
    assert "vanished" not in rig.ledger()


def test_a_thread_that_does_not_end_is_handed_back_and_left_behind(rig):
    """The process does not wait for it, however long it takes."""
    worker = rig.worker("--drain-timeout", "500ms")
    rig.publish("sync_slow", "thread", payload={"seconds": 60})
    rig.started("thread")
    began = time.monotonic()
    assert worker.stop() == 75
    assert time.monotonic() - began < 15
    assert (rig.pending(), rig.left()) == (0, 1)
    assert rig.ledger()["released"] == 1


def test_sigterm_at_twenty_random_moments_loses_nothing(rig):
    """Handlers are short, so every drain is complete: each message runs exactly once."""
    rig.configure({"lease": "5s", "max_length": 0})
    keys = [f"m{number}" for number in range(1500)]
    worker = rig.worker("--concurrency", "8")
    publishing = Publishing(rig, "slow", keys, at_once=4, payload={"seconds": 0.02})
    for _ in range(20):
        following = rig.start("--concurrency", "8")
        rig.beats(following)
        done = len(rig.keys_of("F"))
        wait_until(lambda done=done: len(rig.keys_of("F")) > done + random.randrange(20) or rig.left() == 0)
        assert worker.stop() == 0
        worker = following
    publishing.join(30)
    rig.finished(*keys, seconds=30)
    rig.empty()
    assert publishing.errors == []
    assert sorted(rig.keys_of("S")) == sorted(rig.keys_of("F")) == sorted(keys)
    assert rig.ledger()["done"] == len(keys)
    assert "vanished" not in rig.ledger()


def test_ctrl_c_on_the_terminal_lets_a_child_process_finish(rig):
    """It reaches the whole process group: the handler in its child, too."""
    worker = rig.worker()
    rig.publish("process_slow", "child", payload={"seconds": 1.5})
    rig.started("child")
    worker.signal_group(signal.SIGINT)
    assert worker.ended() == 0
    assert rig.keys_of("F") == ["child"]
    assert rig.ledger()["done"] == 1
