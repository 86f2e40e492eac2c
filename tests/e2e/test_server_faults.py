"""The server is killed, frozen, restarted: workers wait for it, nothing is lost, nothing is taken from who lives."""

import time
from collections import Counter

import pytest

from tests.e2e.rig import QUICK, Publishing
from tests.support import SERVERS, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.faults]


@pytest.mark.parametrize("lasting", [*SERVERS, pytest.param("cluster", marks=pytest.mark.slow)], indirect=True)
def test_a_server_that_is_killed_under_load_loses_nothing(lasting):
    """Three times. What was accepted runs; a publish whose reply was lost leaves no double; workers go on living."""
    rig, faults, concurrency = lasting, 3, 4
    keys = [f"m{number}" for number in range(1200)]
    workers = [rig.worker("--concurrency", str(concurrency)) for _ in range(2)]
    publishing = Publishing(rig, "slow", keys, at_once=3, payload={"seconds": 0.01})
    for number in range(1, faults + 1):
        wait_until(lambda number=number: len(publishing.accepted) > number * len(keys) // 5, 30)
        rig.server.kill()
        rig.server.start()
    publishing.join(60)
    assert publishing.errors == []
    assert sorted(publishing.accepted) == sorted(keys)
    rig.finished(*keys, seconds=40)
    rig.empty()
    assert [worker.code for worker in workers] == [None, None]
    starts = Counter(rig.keys_of("S"))
    assert set(starts) == set(keys)
    assert starts.total() - len(keys) <= faults * concurrency * len(workers)
    assert rig.ledger()["accepted"] == len(keys)
    assert rig.ledger()["done"] == len(keys)
    assert rig.dead() == []
    assert [worker.stop() for worker in workers] == [0, 0]
    assert max(worker.text().count("Redis unavailable") for worker in workers) <= faults * 6  # said once a role


def test_nothing_is_taken_from_workers_that_live_while_the_server_was_frozen(lasting):
    """Frozen for longer than the lease and the silence: nobody could speak, so silence proves nothing. Who died
    meanwhile is still found out, after a time of grace."""
    rig = lasting
    rig.configure(QUICK, worker={"silent_after": "3s", "beat_interval": "500ms"})
    orphans, held = ["orphan1", "orphan2"], [f"held{number}" for number in range(4)]
    dying = rig.worker("--concurrency", "2")
    rig.publish("stuck_once", *orphans)
    rig.started(*orphans)
    living = [rig.worker("--concurrency", "3") for _ in range(2)]
    rig.publish("stuck_once", *held)
    rig.started(*held)
    frozen_at = time.monotonic()
    rig.server.pause()
    wait_until(lambda: time.monotonic() > frozen_at + 3)
    dying.kill()
    wait_until(lambda: time.monotonic() > frozen_at + 7)
    rig.server.resume()
    thawed_at = time.monotonic()
    rig.publish("ok", "next")
    rig.finished("next", *orphans, seconds=40)
    assert time.monotonic() > thawed_at + 5
    wait_until(lambda: time.monotonic() > thawed_at + 14)
    starts = Counter(rig.keys_of("S"))
    assert starts == Counter({**dict.fromkeys(held, 1), **dict.fromkeys(orphans, 2), "next": 1})
    rig.open()
    rig.finished(*held)
    rig.empty()
    assert [worker.code for worker in living] == [None, None]


def test_workers_wait_for_a_server_that_is_away_for_long(lasting):
    """They live, and say so once a role, not with every try. Who is told to end meanwhile ends: what it could not tell
    is pending, and will be found there."""
    rig = lasting
    staying = rig.worker("--concurrency", "1")
    rig.publish("gated", "held")
    rig.started("held")
    leaving = rig.worker("--concurrency", "1", "--drain-timeout", "1s")
    rig.publish("gated", "left", payload={"gate": "closed"})
    rig.started("left")
    rig.server.kill()
    away_since = time.monotonic()
    rig.open()
    assert leaving.stop(25) == 75
    wait_until(lambda: time.monotonic() > away_since + 11, 20)
    assert staying.code is None
    rig.server.start()
    rig.publish("ok", "next")
    rig.finished("held", "next", seconds=30)
    wait_until(lambda: rig.left() == rig.pending() == 1)
    assert rig.keys_of("S") == ["held", "left", "next"]
    assert 1 <= staying.text().count("Redis unavailable") <= 8
    assert staying.stop() == 0
