"""The beat's own connection: what goes wrong with it, and how it comes back. What a beat does is in test_reclaim."""

import contextlib
import time

import pytest

from streamq.core.errors import RedisUnavailable
from streamq.store.beats import BeatConnection
from streamq.store.connection import Connections
from streamq.store.keys import Keyspace
from streamq.store.url import parse_url
from streamq.testing.server import PrivateServer
from tests.contract.desk import GROUP, LEASE, SILENT
from tests.support import server_binary

KEYS = Keyspace().queue("orders")


@pytest.fixture
def mortal():
    with PrivateServer(server_binary("redis-7.0")) as server:
        yield server


@pytest.fixture
def beats(mortal):
    beats = BeatConnection(Connections(parse_url(mortal.url)))
    yield beats
    beats.close()


def beat(beats):
    return beats.extend(KEYS, GROUP, "w1", lease_ms=LEASE, silent_after_ms=SILENT, deliveries=[])


def test_a_beat_after_a_restart_finds_its_way(mortal, beats):
    """The server is another one and knows no script."""
    assert beat(beats).now_ms > 0
    mortal.restart()
    with contextlib.suppress(RedisUnavailable):  # whether the cut shows before or after the command was sent
        beat(beats)
    assert beat(beats).now_ms > 0


def test_a_beat_waits_for_a_second_at_most(mortal, beats):
    """A frozen server must not hold the thread until the leases are gone."""
    beat(beats)
    mortal.pause()
    started = time.monotonic()
    with pytest.raises(RedisUnavailable):
        beat(beats)
    assert time.monotonic() - started < 3
    mortal.resume()
    assert beat(beats).now_ms > 0


def test_a_beat_that_reaches_nobody_is_an_outage(mortal, beats):
    mortal.kill()
    with pytest.raises(RedisUnavailable):
        beat(beats)
    beats.close()


def test_closing_twice_is_harmless(mortal, beats):
    beat(beats)
    mortal.kill()
    beats.close()
    beats.close()
