"""Leases: nothing is taken from who lives, and who lost something does not touch it any more."""

import pytest

from tests.e2e.places import EVERYWHERE
from tests.e2e.rig import QUICK
from tests.support import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.faults]

SHORT = {**QUICK, "lease": "1s"}

on_every_server = pytest.mark.parametrize("rig", EVERYWHERE, indirect=True)


@on_every_server
def test_a_worker_that_was_stopped_starts_nothing_that_is_done(rig):
    """What it ran was taken over, and so was what lay in its socket: when it wakes, it only learns so."""
    rig.configure(SHORT)
    sleeper = rig.worker("--concurrency", "3")
    rig.publish("stuck_once", "fails", payload={"fails": True})
    rig.publish("stuck_once", "stuck")
    rig.started("fails", "stuck")
    rig.listening()
    sleeper.freeze()
    rig.publish("ok", "in-the-socket")  # its read is open: Redis hands this over to nobody who looks
    wait_until(lambda: rig.pending(sleeper) == 3)
    other = rig.worker("--concurrency", "3")
    rig.finished("in-the-socket", "fails", "stuck")
    rig.open()
    sleeper.thaw()
    other.stop()
    rig.publish("ok", "afterwards")  # the sleeper is the only one left, and works again
    rig.finished("afterwards")
    rig.empty()
    starts = rig.keys_of("S")
    assert {key: starts.count(key) for key in set(starts)} == {
        "fails": 2, "stuck": 2, "in-the-socket": 1, "afterwards": 1
    }  # fmt: skip
    ledger = rig.ledger()
    assert ledger["done"] == 4
    assert "retried" not in ledger
    assert rig.dead() == []


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_blocked_event_loop_loses_nothing_to_others(rig, loop):
    """The beat is a thread of its own. What Redis hands over meanwhile lies in the socket: it is not started late."""
    rig.configure(SHORT)
    blocked = rig.worker("--concurrency", "3", env=rig.without_uvloop() if loop == "asyncio" else None)
    rig.publish("gated", "neighbour")
    rig.started("neighbour")
    rig.publish("block_loop", "blocks", payload={"seconds": 3})
    rig.listening()
    rig.started("blocks")
    rig.publish("ok", "in-the-socket")
    wait_until(lambda: rig.pending(blocked) == 3)
    other = rig.worker("--concurrency", "3")
    rig.publish("ok", "one", "two", "three")
    rig.finished("in-the-socket", "one", "two", "three", "blocks")
    rig.open()
    other.stop()
    rig.publish("ok", "afterwards")
    rig.finished("afterwards", "neighbour")
    rig.empty()
    assert sorted(rig.keys_of("S")) == ["afterwards", "blocks", "in-the-socket", "neighbour", "one", "three", "two"]
