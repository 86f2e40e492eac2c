"""Alive is a loop that turns; ready is every queue being read."""

from types import SimpleNamespace

import pytest

from streamq.core.message import Delivery
from streamq.runtime import health as module
from streamq.runtime.health import Health
from tests.runtime.rig import soon, until


@pytest.fixture
def now(monkeypatch):
    hand = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: hand.seconds))
    return hand


def test_a_worker_that_starts_is_alive_and_not_ready(rig, now):
    health = Health([rig.lane], rig.lifecycle)
    now.seconds += 3600
    assert health.live().ok
    assert health.ready() == (False, "starting")


def test_a_blocked_loop_is_seen(rig, now):
    health = Health([rig.lane], rig.lifecycle)
    rig.lifecycle.started()
    now.seconds += 9
    assert health.live().ok
    now.seconds += 2
    assert health.live() == (False, "the event loop has been blocked for 11 s")


async def test_a_loop_that_turns_gives_signs_of_life(rig, now, monkeypatch):
    monkeypatch.setattr(module, "PULSE", 0.0)
    health = Health([rig.lane], rig.lifecycle)
    rig.lifecycle.started()
    now.seconds += 3600
    monkeypatch.setattr(module, "PULSE", 0.001)
    task = rig.background(health.run())
    await until(lambda: health.live().ok)
    rig.lifecycle.quiet()
    await soon(task)


def test_an_outage_of_redis_does_not_cost_a_worker_its_life(rig, now):
    """A restart would not bring Redis back."""
    health = Health([rig.lane], rig.lifecycle)
    rig.lifecycle.started()
    assert health.live().ok
    assert not health.ready().ok


def test_ready_is_every_queue_being_read(rig, now):
    """Three reads may be missed, and some time to reconnect."""
    health = Health([rig.lane], rig.lifecycle)
    rig.lifecycle.started()
    rig.lane.last_poll = now.seconds
    now.seconds += 8
    assert health.ready().ok
    now.seconds += 1
    assert health.ready() == (False, "orders has not been read for 9 s")


def test_one_queue_that_is_not_read_is_enough(rig, now):
    other = SimpleNamespace(**{name: getattr(rig.lane, name) for name in ("in_flight", "limits")}, queue="mail")
    other.last_poll, rig.lane.last_poll = 0.0, now.seconds
    health = Health([rig.lane, other], rig.lifecycle)
    rig.lifecycle.started()
    assert not health.ready().ok


async def test_a_worker_without_a_free_slot_does_not_read_and_is_ready(make_rig, now):
    rig = await make_rig(slots=1)
    health = Health([rig.lane], rig.lifecycle)
    rig.lifecycle.started()
    assert not health.ready().ok
    rig.lane.in_flight.take(Delivery("orders", "normal", "1-1", {}, 1, 0))
    rig.lane.last_beat = now.seconds
    assert health.ready().ok
    now.seconds += 13
    assert health.ready() == (False, "orders: no beat has reached Redis for 13 s")


def test_a_worker_that_ends_is_alive_and_not_ready(rig, now):
    """It must be left alone to drain."""
    health = Health([rig.lane], rig.lifecycle)
    rig.lifecycle.started()
    rig.lifecycle.quiet()
    now.seconds += 3600
    assert health.live().ok
    assert health.ready() == (False, "quiet")


def test_a_sign_of_life_that_is_late_is_lag(rig, now):
    health = Health([rig.lane], rig.lifecycle)
    now.seconds += 5
    assert health.lag() == 0.0  # it has not begun
    rig.lifecycle.started()
    assert health.lag() == 5.0 - module.PULSE
    rig.lifecycle.quiet()
    assert health.lag() == 0.0
