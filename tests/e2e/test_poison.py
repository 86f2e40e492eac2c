"""A message that kills its worker is found out and buried; those who ran beside it are not taken for it."""

import pytest

from tests.e2e.rig import QUICK
from tests.support import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.faults]

INNOCENTS = [f"innocent{number}" for number in range(50)]


@pytest.mark.timeout(150)
@pytest.mark.parametrize("processes", [1, 2])
def test_poison_is_buried_and_innocents_survive(rig, processes):
    """A parent starts the workers anew, as a service manager would."""
    rig.configure({**QUICK, "lease": "1s"})
    rig.publish("slow", *INNOCENTS[:20], payload={"seconds": 0.1})
    (poison,) = rig.publish("crash", "poison")
    rig.publish("slow", *INNOCENTS[20:], payload={"seconds": 0.1})
    parent = Keeper(rig, "--concurrency", "8", *(("--processes", "2") if processes == 2 else ()))
    wait_until(lambda: parent.keep() and rig.dead(), 120)
    rig.finished(*INNOCENTS, seconds=30)
    rig.empty()
    assert rig.reasons() == {poison.id: "poison"}
    (letter,) = rig.dead()
    assert letter["retry_count"] == "0"
    assert int(letter["deliveries"]) >= 3
    assert rig.keys_of("S").count("poison") == 4  # twice in company, twice alone
    assert set(rig.keys_of("F")) == set(INNOCENTS)
    rig.publish("ok", "afterwards")
    rig.finished("afterwards")


class Keeper:
    """Starts a worker anew whenever it died."""

    def __init__(self, rig, *arguments):
        self._rig, self._arguments = rig, arguments
        self._worker = rig.start(*arguments)

    def keep(self):
        if self._worker.code is not None:
            self._worker = self._rig.start(*self._arguments)
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
