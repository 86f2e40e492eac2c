"""kill -9 of a worker: another one finishes what it held, once its lease or its silence has told."""

import time
from collections import Counter

import pytest

from tests.e2e.places import EVERYWHERE

pytestmark = [pytest.mark.e2e, pytest.mark.faults]

on_every_server = pytest.mark.parametrize("rig", EVERYWHERE, indirect=True)


def keys(count, name="m"):
    return [f"{name}{number}" for number in range(count)]


def extra_starts(rig):
    """Starts beyond the first of each key."""
    counts = Counter(rig.keys_of("S"))
    return counts.total() - len(counts)


@on_every_server
@pytest.mark.parametrize("concurrency", [1, 4, 8])
def test_a_lease_that_ends_brings_its_message_to_another_worker(rig, concurrency):
    """Even where it has a single slot: waiting for new messages must not keep it from looking for old ones."""
    held = keys(concurrency, "held")
    first = rig.worker("--concurrency", str(concurrency))
    rig.publish("stuck_once", *held)
    rig.started(*held)
    second = rig.worker("--concurrency", str(concurrency))
    rig.publish("ok", *keys(30, "more"))
    first.kill()
    rig.finished(*held, *keys(30, "more"), seconds=20)
    rig.empty()
    assert extra_starts(rig) <= concurrency
    assert rig.ledger()["done"] == concurrency + 30
    assert second.said("took over from a worker that vanished")


def test_silence_brings_a_message_to_another_worker_before_its_lease_ends(rig):
    """With the defaults: lease 30 s, silent after 12 s."""
    rig.configure({"retry_delay": "200ms"})
    held = keys(5)
    first = rig.worker("--concurrency", "5")
    rig.publish("stuck_once", *held)
    rig.started(*held)
    rig.worker("--concurrency", "5")
    first.kill()
    killed_at = time.monotonic()
    rig.finished(*held, seconds=25)
    assert time.monotonic() - killed_at < 18
    rig.empty()
    assert extra_starts(rig) <= 5
    assert rig.dead() == []
