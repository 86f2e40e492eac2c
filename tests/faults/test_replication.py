"""Faults of replication behind Sentinel: A4 of the catalogue, R01 to R03, and C09."""

import asyncio
import time

import pytest

from streamq import DurabilityUnconfirmed
from streamq.core.events import Settled
from tests.faults.house import QUEUE, eventually, passed, serving
from tests.faults.replicated import Load, house_behind
from tests.servers.sentinel import PrivateSentinel
from tests.support import SERVERS, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

NOTICED = 5.0  # seconds within which a demoted master is left
LONGEST_PAUSE = 10.0  # seconds between two tries of a role that met an outage


@pytest.fixture(params=SERVERS)
def pair(request):
    """A master, one replica and three sentinels."""
    with PrivateSentinel(request.param) as sentinel:
        yield sentinel


@pytest.fixture(params=SERVERS)
def trio(request):
    """A master, two replicas and three sentinels: after a failover there is a replica still."""
    with PrivateSentinel(request.param, replicas=2) as sentinel:
        yield sentinel


def served(sentinel, port):
    """How much work a server has been asked for so far."""
    with sentinel.client(port) as client:
        stats = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha", "xreadgroup", "sadd"))


# --- R01


async def test_r01_a_failover_loses_its_window_and_nothing_else(pair):
    """What no replica had is lost, and what was done there is done again; nothing is stuck, and the law holds. Who
    asked for a replica's word was told that there was none."""
    async with house_behind(pair) as house:
        ran, app = [], house.app()

        @app.handler(QUEUE)
        async def work(number: int):
            ran.append(number)

        async with app:
            async with serving(app) as worker:
                await app.publish(QUEUE, {"type": "work", "number": 0}, durable="replica")
                await worker.events.until(Settled)
            await app.publish_many(QUEUE, [{"type": "work", "number": n} for n in (1, 2)], durable="replica")
            old, (replica,) = pair.master(), pair.ports[1:]
            pair.cut_off(replica)
            async with serving(app) as worker:
                await worker.events.until(Settled, 2)
            await app.publish(QUEUE, {"type": "work", "number": 3})
            with pytest.raises(DurabilityUnconfirmed):
                await app.publish(QUEUE, {"type": "work", "number": 4}, durable="replica")
            assert ran == [0, 1, 2]
            pair.servers[old].kill()
            await asyncio.to_thread(pair.await_failover, old)
            async with serving(app):
                await app.publish(QUEUE, {"type": "work", "number": 5})
                await eventually(lambda: 5 in ran and house.books.is_empty())
        assert ran == [0, 1, 2, 1, 2, 5]
        assert house.books.ledger() == {"accepted": 4, "done": 4}


async def test_r01_min_replicas_keep_the_window_short(pair):
    """A master without a replica takes no more: what it accepted before it noticed is all that can be lost."""
    for port in pair.ports:
        with pair.client(port) as client:
            client.config_set("min-replicas-max-lag", 2)
    async with house_behind(pair) as house, Load(house, durable=None) as load:
        accepted_at = {}

        async def note():
            while len(accepted_at) < 100_000:
                for number in load.confirmed[len(accepted_at) :]:
                    accepted_at[number] = time.monotonic()
                await asyncio.sleep(0)

        noting = asyncio.ensure_future(note())
        async with serving(load.worker_app):
            await load.goes_on()
            old, (replica,) = pair.master(), pair.ports[1:]
            with pair.client(old) as client:
                client.config_set("min-replicas-to-write", 1)
            pair.cut_off(replica)
            cut_at = time.monotonic()
            await passed(5)
            stopped_at = max(accepted_at.values())
            pair.servers[old].kill()
            await asyncio.to_thread(pair.await_failover, old)
            await load.goes_on()
            await load.stop()
            await eventually(load.is_over)
        noting.cancel()
        buried = await load.buried()
        lost = set(load.confirmed) - {*load.ran, *buried}
        assert stopped_at < cut_at + 4
        assert all(cut_at - 0.5 < accepted_at[number] <= stopped_at for number in lost)


# --- R02, C09


async def test_r02_a_master_that_is_killed_loses_nothing_confirmed(trio):
    """Under load: workers and publishers find the promoted replica by themselves."""
    async with house_behind(trio) as house, Load(house) as load, serving(load.worker_app):
        await load.goes_on()
        old = trio.master()
        trio.servers[old].kill()
        await asyncio.to_thread(trio.await_failover, old)
        found_at = time.monotonic()
        await load.goes_on()
        assert time.monotonic() < found_at + LONGEST_PAUSE + 10
        await load.done()


async def test_r02_a_master_that_thaws_is_left_within_five_seconds(trio):
    """It was frozen and replaced, and goes on as a master: no sentinel may tell it otherwise. Whoever has connections
    to it, the worker's readers and beats among them, leaves it all the same, and nobody comes back."""
    async with house_behind(trio) as house, Load(house) as load, serving(load.worker_app) as worker:
        await load.goes_on()
        old = trio.master()
        with trio.client(old) as client:
            client.execute_command("ACL", "SETUSER", "default", "-slaveof", "-replicaof")
        trio.servers[old].pause()
        await asyncio.to_thread(trio.await_failover, old)
        trio.servers[old].resume()
        thawed_at = time.monotonic()
        await passed(NOTICED)
        before = served(trio, old)
        await load.goes_on()
        await passed(max(0.0, thawed_at + NOTICED + 2 - time.monotonic()))
        with trio.client(old) as client:
            assert client.info("replication")["role"] == "master"
        assert served(trio, old) == before
        await load.done()
        assert worker.worker.health.ready().ok


async def test_c09_a_publisher_that_is_rarely_used_does_not_write_to_the_old_master(pair):
    """It has no worker beside it, and its idle connection leads to a master that was replaced."""
    async with house_behind(pair) as house, house.app() as app:
        await app.publish(QUEUE, {"type": "work"})
        old = pair.master()
        with pair.client(old) as client:
            client.execute_command("ACL", "SETUSER", "default", "-slaveof", "-replicaof")
        pair.servers[old].pause()
        await asyncio.to_thread(pair.await_failover, old)
        pair.servers[old].resume()
        await passed(NOTICED)
        before = served(pair, old)
        await app.publish(QUEUE, {"type": "work"})
        assert served(pair, old) == before
        assert house.books.ledger()["accepted"] == 2


async def test_c09_beats_leave_the_old_master_while_the_loop_is_blocked(pair):
    """Else its peers would see a worker that is silent on the new one, and take what it runs."""
    async with house_behind(pair) as house, house.app(lease=30.0) as app:
        ran = []

        @app.handler(QUEUE)
        async def block():
            ran.append("begun")
            old = pair.master()
            with pair.client(old) as client:
                client.set("last", "write")
                assert client.wait(1, 5000) == 1
                client.execute_command("ACL", "SETUSER", "default", "-slaveof", "-replicaof")
            pair.servers[old].pause()
            pair.await_failover(old)
            pair.servers[old].resume()
            thawed_at = time.monotonic()
            consumer = worker.worker.consumer
            with pair.client(pair.master()) as client:
                key = house.books.keys.workers
                told = int(client.hget(key, consumer))
                wait_until(lambda: int(client.hget(key, consumer)) > told, NOTICED)
            wait_until(lambda: time.monotonic() > thawed_at + NOTICED)
            ran.append("beaten")

        async with serving(app) as worker:
            await app.publish(QUEUE, {"type": "block"})
            await worker.events.until(Settled)
        assert ran == ["begun", "beaten"]
        assert house.books.ledger() == {"accepted": 1, "done": 1}


# --- R03


async def test_r03_a_blocked_reader_survives_that_its_master_becomes_a_replica(pair):
    """Redis ends its wait with an error; that is an outage like any other."""
    async with house_behind(pair) as house, house.app(limits={"block": 10.0}) as app:

        @app.handler(QUEUE)
        async def work(number: int):
            pass

        async with serving(app) as worker:
            old = pair.master()
            await eventually(lambda: _blocked(pair, old) == 1)
            await asyncio.to_thread(pair.failover)
            await app.publish(QUEUE, {"type": "work", "number": 1})
            await worker.events.until(Settled)
            assert not worker.task.done()
        await eventually(house.books.is_empty)


def _blocked(sentinel, port):
    with sentinel.client(port) as client:
        return client.info("clients")["blocked_clients"]
