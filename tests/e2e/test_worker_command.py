"""``streamq worker`` as a program: its options, its exit codes, and the processes below it."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.e2e.rig import ROOT
from tests.support import wait_until

pytestmark = pytest.mark.e2e


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_burst_ends_when_nothing_is_left(rig):
    """What is due later stays; what fails and is tried again at once is not left behind half way."""
    rig.publish("ok", *(f"m{number}" for number in range(120)))
    rig.publish("ok", "urgent", priority="critical")
    rig.publish("ok", "lazy", priority="low")
    rig.publish("ok", "later", delay=600)
    worker = rig.start("--burst", "--concurrency", "3")
    assert worker.ended() == 0
    assert len(rig.keys_of("F")) == 122
    assert (rig.left(), rig.consumers()) == (1, [])


def test_burst_on_an_empty_queue_ends_at_once(rig):
    began = time.monotonic()
    assert rig.start("--burst").ended() == 0
    assert time.monotonic() - began < 10


def test_concurrency_is_kept(rig):
    """Never more at once, and as many as allowed when there is enough to do."""
    rig.worker("--concurrency", "3")
    rig.publish("slow", *(f"m{number}" for number in range(30)), payload={"seconds": 0.05})
    rig.empty()
    running = most = 0
    for line in sorted(rig.journal, key=lambda line: line.at):
        running += 1 if line.event == "S" else -1
        most = max(most, running)
    assert most == 3


def test_one_worker_serves_several_queues(rig):
    """Each has its own slots: a queue that is stuck does not hold up another."""
    worker = rig.worker("--concurrency", "2", queue=("work", "other", "third"))
    rig.publish("gated", "stuck1", "stuck2", "stuck3", queue="work")
    rig.publish("ok", "a", queue="other")
    rig.publish("ok", "b", queue="third")
    rig.finished("a", "b")
    rig.open()
    for queue in ("work", "other", "third"):
        rig.empty(queue)
    assert worker.stop() == 0
    assert [rig.consumers(queue) for queue in ("work", "other", "third")] == [[], [], []]


def test_a_container_says_which_queues_by_its_environment(rig):
    worker = rig.worker(queue=(), env={"QUEUE_NAMES": "work,other", "MAX_CONCURRENT": "1"})
    rig.beats(worker, ("work", "other"))
    rig.publish("ok", "a", queue="other")
    rig.finished("a")
    assert rig.consumers("third") == []


# --- processes


def test_a_parent_starts_what_was_killed_anew_and_passes_sigterm_on(rig):
    parent = rig.start("--processes", "2", "--concurrency", "2")
    wait_until(lambda: len(rig.consumers()) == 2, 30)
    first = parent.children()
    assert len(first) == 2
    os.kill(first[0], signal.SIGKILL)
    wait_until(lambda: len(set(parent.children()) - set(first)) == 1, 30)
    wait_until(lambda: len(rig.consumers()) == 3, 30)  # the dead one is remembered for a while
    rig.publish("slow", *(f"m{number}" for number in range(4)), payload={"seconds": 1})
    rig.started(*(f"m{number}" for number in range(4)))
    children = parent.children()
    assert parent.stop() == 0
    assert not any(map(alive, [*first, *children]))
    assert len(rig.keys_of("F")) == 4
    rig.empty()


def test_children_end_when_their_parent_is_killed(rig):
    """Nobody would stop them any more. They finish what they run."""
    parent = rig.start("--processes", "2", "--concurrency", "2")
    wait_until(lambda: len(rig.consumers()) == 2, 30)
    children = parent.children()
    rig.publish("gated", "running")
    rig.started("running")
    parent.kill()
    wait_until(lambda: len(rig.consumers()) == 1, 20)
    wait_until(lambda: [alive(pid) for pid in children].count(True) == 1)
    rig.open()
    wait_until(lambda: not any(map(alive, children)), 20)
    assert rig.keys_of("F") == ["running"]
    assert rig.consumers() == []


def test_work_that_a_child_cuts_short_is_told_by_the_parent(rig):
    parent = rig.start("--processes", "2", "--drain-timeout", "500ms")
    wait_until(lambda: len(rig.consumers()) == 2, 30)
    rig.publish("gated", "running")
    rig.started("running")
    assert parent.stop() == 75
    assert (rig.pending(), rig.left()) == (0, 1)


def test_reload_starts_anew_when_a_file_changes(rig):
    """The new code runs, what was running could finish, and a file that cannot be imported is not the end."""
    project = rig.folder / "project"
    project.mkdir()
    code = (ROOT / "tests/e2e/app/__init__.py").read_text()
    mine = project / "mine.py"
    mine.write_text(code)
    parent = rig.start("--reload", "--app", "mine:app", cwd=project)
    wait_until(lambda: len(rig.consumers()) == 1, 30)
    rig.publish("slow", "before", payload={"seconds": 1})
    rig.started("before")
    mine.write_text(code.replace('note("F", key', 'note("F", key + "-new"'))
    rig.finished("before")
    rig.publish("ok", "after")
    rig.finished("after-new", seconds=30)
    mine.write_text("this is no Python")
    wait_until(lambda: parent.said("waiting for a file to change"), 30)
    mine.write_text(code)
    rig.publish("ok", "mended")
    rig.finished("mended", seconds=30)
    rig.empty()
    assert parent.stop() == 0


# --- exit codes


def test_what_cannot_work_ends_and_says_why(rig):
    """69 when Redis was not reachable for ten seconds, 78 for what no waiting would mend. All at once, to save time."""
    began = time.monotonic()
    unreachable = rig.start(env={"STREAMQ_REDIS_URL": f"unix://:canary-of-redis@{rig.folder}/nobody.sock"})
    rig.redis.xgroup_create("queue:other", "somebody", mkstream=True)
    rig.redis.sadd("queue:names", "other")
    broken = rig.folder / "broken.yaml"
    broken.write_text("queues:\n  work:\n    leaze: 3s\n")
    (rig.folder / "faulty.py").write_text("import nothing_like_this\n")
    (rig.folder / "empty.py").write_text("app = 7\n")
    starts = {
        "leaze": rig.start("--config", str(broken)),
        "somebody": rig.start(queue=("other",)),
        "no module 'nowhere'": rig.start("--app", "nowhere:app"),
        "nothing_like_this": rig.start("--app", "faulty:app"),
        "no StreamQ app": rig.start("--app", "empty:app"),
        "is no name for a queue": rig.start(queue=("Not A Name",)),
        "not base64": rig.start(env={"STREAMQ_SIGNING_KEYS": "k1:active:!!!"}),
        "no signing key": rig.start(env={"STREAMQ_SIGNING_KEYS": "", "STREAMQ_ENV": "production"}),
    }
    for text, worker in starts.items():
        assert worker.ended() == 78, (text, worker.text())
        assert text in worker.text()
        assert "Traceback" not in worker.text()
    assert unreachable.ended() == 69
    assert 9 < time.monotonic() - began < 20
    assert unreachable.said("was not reachable")
    assert "Traceback" not in unreachable.text()


def test_bad_options_end_with_2(rig):
    wrong = (["--concurrency", "0"], ["--drain-timeout", "soon"], ["--no-such-option"])
    starts = [rig.start(*words) for words in wrong]
    assert [worker.ended() for worker in starts] == [2, 2, 2]


def test_a_worker_says_who_it_is_and_needs_no_configuration(rig):
    worker = rig.worker("--name", "unit-7", env={"STREAMQ_CONFIG": ""})
    assert rig.consumer(worker).startswith("unit-7:")
    rig.publish("ok", "a")
    rig.finished("a")


def test_a_parent_does_not_start_children_that_could_only_fail(rig):
    """A configuration that is wrong for one is wrong for all: said once."""
    rig.config.write_text("queues:\n  work:\n    leaze: 3s\n")
    parent = rig.start("--processes", "4")
    assert parent.ended() == 78
    assert parent.text().count("leaze") == 1
    rig.configure()
