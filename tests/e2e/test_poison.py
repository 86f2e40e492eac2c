"""A message that kills its worker is found out and buried; those who ran beside it are not taken for it."""

import pytest

from tests.e2e.rig import QUICK
from tests.support import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.faults]

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


class Keeper:
    """Starts a worker anew whenever it died."""

    def __init__(self, rig, *arguments, queue):
        self._rig, self._arguments, self._queue = rig, arguments, queue
        self._worker = rig.start(*arguments, queue=queue)

    def keep(self):
        if self._worker.code is not None:
            self._worker = self._rig.start(*self._arguments, queue=self._queue)
        return True


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
