"""Crash repair: whoever is killed is found by its missing beat, and nothing is taken from who lives."""

import time
from collections import Counter

import pytest

from benchmarks.crash_repair import IN_FLIGHT, repair
from streamq.testing.server import PrivateServer
from tests.support import SERVERS, server_binary, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.e2e]

on_one_server = pytest.mark.parametrize("rig", SERVERS[:1], indirect=True)  # what they show is the workers' doing


@pytest.mark.timeout(150)
@pytest.mark.parametrize("kind", SERVERS[:1])
async def test_a_thousand_in_flight_are_taken_over_within_15_s(kind, tmp_path):
    """With every limit at its default: each of the thousand runs once more and no more."""
    with PrivateServer(server_binary(kind)) as server:
        found = await repair(server.url, tmp_path)
    assert found.starts == Counter(dict.fromkeys(range(IN_FLIGHT), 2))
    assert (found.done, found.imbalance) == (IN_FLIGHT, 0)
    assert max(found.seconds) < 15


@on_one_server
@pytest.mark.timeout(150)
def test_an_outage_of_20_s_takes_nothing_from_who_lives(rig):
    """Longer than the silence after which a worker counts as dead, with every limit at its default."""
    rig.configure({})
    held = [f"held{number}" for number in range(20)]
    workers = [rig.worker("--concurrency", "20") for _ in range(2)]
    rig.publish("gated", *held)
    rig.started(*held)
    rig.server.pause()
    paused_at = time.monotonic()
    wait_until(lambda: time.monotonic() > paused_at + 20, 30)
    rig.server.resume()
    rig.publish("ok", "next")
    rig.finished("next", seconds=30)
    wait_until(lambda: time.monotonic() > paused_at + 34, 30)  # past the time of grace
    rig.open()
    rig.finished(*held)
    rig.empty()
    assert Counter(rig.keys_of("S")) == Counter([*held, "next"])
    assert [worker.code for worker in workers] == [None, None]


@on_one_server
def test_a_worker_that_stops_for_less_than_its_silence_loses_nothing(rig):
    """SIGSTOP for 6 of the 12 seconds: its lease of 30 s holds, and it goes on where it was."""
    rig.configure({})
    held = ["a", "b", "c"]
    stopped = rig.worker("--concurrency", "3")
    rig.publish("gated", *held)
    rig.started(*held)
    rig.worker("--concurrency", "3")
    stopped.freeze()
    frozen_at = time.monotonic()
    wait_until(lambda: time.monotonic() > frozen_at + 6)
    stopped.thaw()
    rig.publish("ok", "next")
    rig.finished("next")
    rig.open()
    rig.finished(*held)
    rig.empty()
    assert Counter(rig.keys_of("S")) == Counter([*held, "next"])
    assert {line.pid for line in rig.journal if line.key in held} == {stopped.pid}
