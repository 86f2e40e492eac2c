"""Faults of time: clocks that are wrong or step, leases shorter than the work, sweeps that come too late."""

import asyncio
import itertools
import time

import pytest
import redis

from streamq.core.clock import SystemClock
from streamq.core.events import LeaseLost, Noticed, Reclaimed
from streamq.store.scripts import script
from tests.faults.house import QUEUE, eventually, house_on, serving, until
from tests.faults.network import dies_with, done
from tests.servers.clock import ServerClock
from tests.support import SERVERS, server_binary

pytestmark = pytest.mark.faults

HOUR = 3600


@pytest.fixture
def clock(tmp_path):
    return ServerClock(tmp_path)


@pytest.fixture(params=SERVERS)
async def stepping(request, clock):
    """A house on a server whose clock can be set."""
    with clock.server(server_binary(request.param)) as server:
        async with house_on(server) as house:
            yield house


async def test_w01_work_longer_than_its_lease_runs_once(house):
    """The lease is renewed by beats, so it says nothing about how long a handler may run."""
    ran = []

    def worker():
        app = house.app(lease=1.0)

        @app.handler(QUEUE)
        async def work():
            began = time.monotonic()
            ran.append(began)
            await until(lambda: time.monotonic() > began + 2.5)

        return app

    mine, other = worker(), worker()
    async with serving(mine), serving(other):
        await mine.publish(QUEUE, {"type": "work"})
        await done(house, 1)
    assert len(ran) == 1
    assert house.books.ledger() == {"accepted": 1, "done": 1}


@pytest.mark.parametrize("hours", [-3, 3])
async def test_w09_a_wrong_clock_of_the_publisher_moves_nothing(house, monkeypatch, hours):
    """A delay is counted by Redis from the moment it accepts the message."""
    monkeypatch.setattr(SystemClock, "time", lambda _: time.time() + hours * HOUR)
    app, ran = house.app(), []

    @app.handler(QUEUE)
    async def work():
        ran.append(time.monotonic())

    async with app:
        await app.publish(QUEUE, {"type": "work"}, delay=1.0)
        published = time.monotonic()
        (left,) = house.books.delayed().values()
        assert 0 < left <= 1000
        await app.publish(QUEUE, {"type": "work"}, delay=0.0004)  # less than a millisecond: at once
        monkeypatch.undo()
        async with serving(app):
            await done(house, 2)
    assert ran[0] - published < 1 < ran[1] - published + 0.05


@pytest.mark.slow
async def test_w10_a_clock_that_jumps_ahead_takes_nothing_and_fires_nothing(stepping, clock):
    """An hour ahead for some seconds, then right again: work that runs stays where it is, what is delayed stays
    delayed, and new work goes on."""
    ran, go = [], asyncio.Event()

    def worker(**times):
        app = stepping.app(limits={"silent_after": 6.0, "beat_interval": 2.0}, **times)

        @app.handler(QUEUE)
        async def work(name: str):
            ran.append(name)
            if name == "held":
                await go.wait()

        return app

    def beat():
        return stepping.raw("HGET", stepping.books.keys.workers, holder.worker.consumer)

    mine, other = worker(lease=8.0), worker(lease=4.0)  # the other one beats and looks twice as often
    async with serving(mine) as holder:
        await mine.publish(QUEUE, {"type": "work", "name": "held"})
        await until(lambda: ran)
        async with serving(other) as idle:
            await mine.publish(QUEUE, {"type": "work", "name": "later"}, delay=600)
            for wrong_by in (HOUR, 0):
                last = beat()
                await eventually(lambda last=last: beat() != last)  # so the other one is the first to see the step
                clock.be_wrong_by(wrong_by)
                stepped = time.monotonic()
                await mine.publish(QUEUE, {"type": "work", "name": f"at {wrong_by}"})
                await until(lambda wrong_by=wrong_by: f"at {wrong_by}" in ran)
                await eventually(lambda stepped=stepped: time.monotonic() > stepped + 2.5)
            assert holder.events.of(Reclaimed) + idle.events.of(Reclaimed) == []
            jumps = [event for event in holder.events.of(Noticed) + idle.events.of(Noticed) if "jumped" in event.text]
            assert jumps
            go.set()
            await done(stepping, 3)
    assert sorted(ran) == ["at 0", "at 3600", "held"]
    assert len(stepping.books.delayed()) == 1


@pytest.mark.slow
async def test_w10_a_clock_that_steps_back_stalls_no_repair(stepping, clock):
    """Who died before the step is found out after it, and not an hour later; who lives keeps what it runs."""
    ran, go = [], asyncio.Event()
    app = stepping.app(limits={"silent_after": 2.0})

    @app.handler(QUEUE)
    async def work(name: str):
        ran.append(name)
        if name == "held":
            await go.wait()

    async with serving(app, concurrency=1) as worker:
        await app.publish(QUEUE, {"type": "work", "name": "held"})
        await until(lambda: ran)
        await app.publish_many(QUEUE, [{"type": "work", "name": name} for name in ("orphan1", "orphan2")])
        dies_with(stepping, "dead", 2)
        clock.be_wrong_by(-HOUR)
        stepped = time.monotonic()
        async with serving(app, concurrency=5):
            await until(lambda: len(ran) == 3)
        assert time.monotonic() - stepped < 10 + 2 + 3  # grace, silence, and the looks between
        assert worker.events.of(LeaseLost) == []
        go.set()
        await done(stepping, 3)
    assert sorted(ran) == ["held", "orphan1", "orphan2"]


async def test_w14_every_worker_looks_for_orphans_all_the_time(house):
    """Each of two workers sweeps every quarter of a lease, give or take a quarter of that."""
    sha, looks = script("reclaim").sha, {}
    with redis.Redis.from_url(house.server.url) as client, client.monitor() as monitor:
        async with serving(_idle(house)) as one, serving(_idle(house)) as other:
            names = {one.worker.consumer, other.worker.consumer}
            began = time.monotonic()

            def looked():
                for _ in range(50):
                    said = monitor.next_command()
                    if sha in said["command"]:
                        (name,) = (name for name in names if name in said["command"])
                        looks.setdefault(name, []).append(said["time"])
                return len(looks) == 2 and min(map(len, looks.values())) > 6

            await eventually(looked)
    assert time.monotonic() - began < 10 * 1.25 * 0.25 + 5
    pauses = [later - sooner for times in looks.values() for sooner, later in itertools.pairwise(times)]
    assert min(pauses) >= 0.75 * 0.25 - 0.01


def _idle(house):
    app = house.app(lease=1.0)

    @app.handler(QUEUE)
    async def work(): ...

    return app
