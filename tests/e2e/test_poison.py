"""A message that kills its worker is found out and buried; those who ran beside it are not taken for it."""

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.rig import QUICK
from tests.support import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.faults]
ON_ONE_SERVER = pytest.mark.parametrize("rig", ["valkey-9.1"], indirect=True)  # what happens has no part in Redis

INNOCENTS = {queue: [f"innocent{number}-{queue}" for number in range(50)] for queue in ("work", "other")}


@pytest.mark.timeout(150)
def test_poison_is_buried_and_innocents_survive(rig):
    """Two services at once, each with its queue: one worker that is started anew whenever it died, and a parent that
    keeps two processes running."""
    rig.configure({**QUICK, "lease": "1s"})
    poisons = {}
    for queue, innocents in INNOCENTS.items():
        rig.publish("slow", *innocents[:20], queue=queue, payload={"seconds": 0.1})
        (poisons[queue],) = rig.publish("crash", f"poison-{queue}", queue=queue)
        rig.publish("slow", *innocents[20:], queue=queue, payload={"seconds": 0.1})
    single = Keeper(rig, "--concurrency", "8", queue=["work"])
    rig.start("--concurrency", "8", "--processes", "2", queue=["other"])
    wait_until(lambda: single.keep() and len(rig.dead()) == 2, 120)
    rig.finished(*INNOCENTS["work"], *INNOCENTS["other"], seconds=60)
    for queue, innocents in INNOCENTS.items():
        rig.empty(queue)
        (letter,) = (letter for letter in rig.dead() if letter["original_queue"] == queue)
        assert (letter["original_id"], letter["reason"]) == (poisons[queue].id, "poison")
        assert letter["retry_count"] == "0"
        assert int(letter["deliveries"]) >= 3
        assert rig.keys_of("S").count(f"poison-{queue}") == 4  # twice in company, twice alone
        assert set(innocents) < set(rig.keys_of("F"))
        rig.publish("ok", f"afterwards-{queue}", queue=queue)
    rig.finished("afterwards-work", "afterwards-other")


def test_a_child_process_that_dies_does_not_take_its_worker_along(rig):
    """Nothing has to pause for it, and two deaths are the verdict."""
    worker = rig.worker("--concurrency", "4")
    rig.publish("gated", "neighbour")
    (poison,) = rig.publish("process_crash", "poison")
    rig.publish("process_slow", "other-child", payload={"seconds": 0.1})
    wait_until(rig.dead, 30)
    assert rig.reasons() == {poison.id: "poison"}
    assert rig.keys_of("S").count("poison") == 2
    rig.publish("process_slow", "afterwards", payload={"seconds": 0.1})
    rig.open()
    rig.finished("neighbour", "other-child", "afterwards")
    rig.empty()
    assert worker.code is None
    assert worker.stop() == 0


def test_a_worker_that_is_killed_again_and_again_is_not_held_against_a_message(rig):
    """Two losses make a suspect, which runs alone; it succeeds and that is the end of it."""
    rig.configure({**QUICK, "lease": "1s"})
    unlucky = rig.worker("--concurrency", "2")
    rig.publish("gated", "innocent")
    for runs in (1, 2):
        wait_until(lambda runs=runs: rig.keys_of("S").count("innocent") == runs, 20)
        following = rig.worker("--concurrency", "2")
        unlucky.kill()
        unlucky = following
    rig.publish("gated", "neighbour", payload={"gate": "other"})
    wait_until(lambda: rig.ledger().get("suspect") == 1, 20)
    rig.open("other")
    rig.open()
    rig.finished("innocent", "neighbour", seconds=20)
    rig.empty()
    assert rig.dead() == []


# --- suspects in a process of their own

# A worker that died is noticed by its silence, within seconds; and its successor is there before that looks like an
# outage, after which nothing is taken over for a while.
SOON = ({**QUICK, "lease": "8s"}, {"silent_after": "2s", "beat_interval": "500ms"})

HOW = {"exit": "exited with code 9", "SIGSEGV": "was killed by SIGSEGV", "SIGKILL": "was killed by SIGKILL"}


@pytest.mark.timeout(150)
def test_once_it_is_a_suspect_a_poison_kills_no_worker_any_more(rig):
    """Three of them beside 200 innocents: exactly those three are convicted, and each letter tells how it died."""
    rig.configure(SOON[0], worker=SOON[1])
    innocents = [f"innocent{number}" for number in range(200)]
    rig.publish("slow", *innocents[:30], payload={"seconds": 0.05})
    poisons = {how: rig.publish("dies", how, payload={"how": how})[0].id for how in HOW}
    rig.publish("slow", *innocents[30:], payload={"seconds": 0.05})
    keeper = Keeper(rig, "--concurrency", "8", queue=["work"])
    wait_until(lambda: keeper.keep() and rig.dead(), 100)
    rig.finished(*innocents, seconds=60)
    wait_until(lambda: keeper.keep() and len(rig.dead()) == 3, 60)
    rig.empty()
    assert rig.reasons() == dict.fromkeys(poisons.values(), "poison")
    for letter in rig.dead():
        (how,) = (how for how, message_id in poisons.items() if message_id == letter["original_id"])
        assert HOW[how] in letter["error"]
        *in_company, first, second = [pid in keeper.pids for pid in pids_of(rig, how)]
        assert (first, second) == (False, False)
        assert all(in_company)
        assert len(in_company) <= 2
    assert len(keeper.pids) <= 1 + 2 * len(poisons)
    assert keeper.worker.code is None
    assert keeper.worker.stop() == 0


def suspect(rig, kind, key, *, losses=2, payload=None, **more):
    """A message that has cost workers already. Returns its id."""
    fields = rig.entry(kind, key, payload=payload)
    rig.add(fields, deliveries=str(losses), **more)
    return fields["id"]


def test_two_deaths_in_a_process_of_its_own_are_the_verdict_and_nothing_pauses(rig):
    worker = rig.worker("--concurrency", "2")
    rig.publish("gated", "neighbour")
    rig.started("neighbour")
    poison = suspect(rig, "dies", "poison", payload={"how": "SIGSEGV"})
    wait_until(rig.dead, 30)
    assert rig.reasons() == {poison: "poison"}
    assert rig.dead()[0]["deliveries"] == "3"
    rig.open()
    rig.finished("neighbour")
    rig.empty()
    assert worker.said("Fatal Python error: Segmentation fault")  # and where
    assert worker.stop() == 0


def test_the_process_of_its_own_is_as_good_as_a_worker(rig):
    """Lifespan, middleware, publishing and logs are there; what it prints does not get among the worker's data."""
    worker = rig.worker(queue=["work", "other"])
    suspect(rig, "looks_around", "suspect")
    rig.finished("suspect", "from-suspect")
    rig.empty()
    pid = next(line.pid for line in rig.journal if line.key == "suspect")
    assert pid != worker.pid
    (told,) = (line for line in worker.text().splitlines() if "looking around" in line)
    assert all(word in told for word in ('"state of the lifespan"', '"middleware":true', '"id":"foreign-suspect"'))
    wait_until(lambda: pid not in worker.children())
    assert worker.stop() == 0


@ON_ONE_SERVER
@pytest.mark.parametrize(
    ("word", "after"),
    [
        ("Retry", {"retried": 2, "dead": 1}), ("Snooze", {"snoozed": 1}), ("Reject", {"dead": 1}),
        ("Drop", {"dropped": 1}), ("other", {"retried": 2, "dead": 1}),
    ],
)  # fmt: skip
def test_what_it_says_there_counts(rig, word, after):
    rig.configure({**QUICK, "max_retries": 2})
    rig.worker()
    suspect(rig, "says", "suspect", payload={"word": word})
    wait_until(lambda: after.items() <= rig.ledger().items(), 20)
    assert rig.ledger().get("suspect", 0) == 0
    if "dead" in after:
        (letter,) = rig.dead()
        assert letter["reason"] == ("rejected" if word == "Reject" else "max_retries")
        assert "handler" not in letter["error"]


@ON_ONE_SERVER
def test_a_time_limit_kills_the_process_and_is_no_verdict_on_the_message(rig):
    """Starting the app does not count: the limit is that of the handler."""
    rig.configure({**QUICK, "max_retries": 0})
    worker = rig.worker()
    message = suspect(rig, "sync_gated", "suspect")
    rig.started("suspect")
    (pid,) = worker.children()
    fields = rig.entry("sync_gated", "hurried", number="hurried", metadata={"timeout": 200})
    rig.add(fields, deliveries="2")
    wait_until(rig.dead, 20)
    assert rig.reasons() == {"hurried": "timeout"}
    assert rig.keys_of("S") == ["suspect", "hurried"]
    assert worker.children() == [pid]
    rig.open()
    rig.finished("suspect")
    rig.empty()
    assert message not in rig.reasons()


@ON_ONE_SERVER
def test_a_handler_that_wants_too_much_memory_has_failed_and_not_died(rig):
    rig.configure({**QUICK, "max_retries": 1})
    worker = rig.worker()
    suspect(rig, "eats_memory", "hungry")
    wait_until(rig.dead, 20)
    (letter,) = rig.dead()
    assert (letter["reason"], letter["error"].partition(":")[0]) == ("max_retries", "MemoryError")
    assert worker.code is None


# --- where it will not have one


@pytest.mark.timeout(120)
def test_alone_in_the_worker_it_is_found_out_all_the_same(rig):
    """It costs four workers, two of them alone, and none of the others."""
    rig.configure(SOON[0], worker=SOON[1])
    innocents = [f"innocent{number}" for number in range(40)]
    (poison,) = rig.publish("dies_here", "poison", payload={"how": "SIGSEGV"})
    rig.publish("slow", *innocents, payload={"seconds": 0.1})
    keeper = Keeper(rig, "--concurrency", "8", queue=["work"])
    wait_until(lambda: keeper.keep() and rig.dead(), 100)
    rig.finished(*innocents, seconds=60)
    rig.empty()
    assert rig.reasons() == {poison.id: "poison"}
    assert rig.dead()[0]["error"] == "killed 2 workers while it ran alone"
    assert [pid in keeper.pids for pid in pids_of(rig, "poison")] == [True] * 4


def pids_of(rig, key):
    return [line.pid for line in rig.journal if line.event == "S" and line.key == key]


# --- deploys convict nobody


@pytest.mark.parametrize("kind", ["gated", "gated_here"])
def test_a_worker_that_is_told_to_end_and_then_killed_convicts_nobody(rig, kind):
    """A rolling deploy whose grace is too short, three times over, with a suspect that runs in the meantime."""
    rig.configure(SOON[0], worker=SOON[1])
    suspect(rig, kind, "suspect")
    for runs in (1, 2, 3):
        worker = rig.worker()
        wait_until(lambda runs=runs: hurry(rig) and rig.keys_of("S").count("suspect") == runs, 30)
        worker.signal_group(signal.SIGTERM)
        wait_until(lambda worker=worker: worker.said("stopping"))
        wait_until(lambda: max(times_delivered(rig), default=0) < 1000)
        worker.signal_group(signal.SIGKILL)
        worker.ended()
    rig.open()
    rig.worker()
    wait_until(lambda: hurry(rig) and "suspect" in rig.keys_of("F"), 30)
    rig.empty()
    assert rig.dead() == []


def hurry(rig):
    """Let what waits be due: the fourth loss costs half a minute."""
    waiting = rig.redis.zrange("{queue:work}:delayed", 0, -1)
    if waiting:
        rig.redis.zadd("{queue:work}:delayed", dict.fromkeys(waiting, 1), xx=True)
    return True


def times_delivered(rig):
    return [row["times_delivered"] for row in rig.redis.xpending_range("queue:work", "streamq", "-", "+", 9)]


@ON_ONE_SERVER
def test_killing_a_whole_service_without_a_warning_convicts_nobody_who_has_a_process_of_its_own(rig):
    """Its death and that of its worker are one event, in whichever order they come."""
    rig.configure(SOON[0], worker=SOON[1])
    suspect(rig, "gated", "suspect")
    for runs in (1, 2):
        worker = rig.worker()
        wait_until(lambda runs=runs: hurry(rig) and rig.keys_of("S").count("suspect") == runs, 30)
        for pid in [*worker.children(), worker.pid]:  # the child first, as bad luck would have it
            os.kill(pid, signal.SIGKILL)
        worker.ended()
    rig.open()
    rig.worker()
    wait_until(lambda: hurry(rig) and "suspect" in rig.keys_of("F"), 30)
    rig.empty()
    assert rig.dead() == []


@ON_ONE_SERVER
def test_nothing_is_left_of_a_child_whose_worker_was_killed(rig):
    """Others run its message again: it must not go on beside them."""
    worker = rig.worker()
    suspect(rig, "sync_gated", "suspect")
    rig.started("suspect")
    (pid,) = worker.children()
    worker.kill()
    wait_until(lambda: not is_running(pid))


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@ON_ONE_SERVER
def test_a_worker_that_ends_hands_back_what_runs_in_a_child(rig):
    worker = rig.worker("--drain-timeout", "200ms")
    suspect(rig, "sync_gated", "suspect")
    rig.started("suspect")
    assert worker.stop() == 75
    rig.open()
    rig.worker()
    rig.finished("suspect")
    rig.empty()
    assert "suspect" not in rig.ledger()


class Keeper:
    """Starts a worker anew whenever it died."""

    def __init__(self, rig, *arguments, queue):
        self._rig, self._arguments, self._queue = rig, arguments, queue
        self.pids = []
        self._start()

    def _start(self):
        self.worker = self._rig.start(*self._arguments, queue=self._queue)
        self.pids.append(self.worker.pid)

    def keep(self):
        if self.worker.code is not None:
            self._start()
        return True
