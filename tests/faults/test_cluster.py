"""Faults of a Cluster: A4 of the catalogue, R04 to R08, and dead letters on their way over two slots."""

import asyncio
import time
from collections import Counter

import pytest
from redis.crc import key_slot

from streamq.core.events import Reclaimed
from tests.faults.house import eventually, serving
from tests.faults.replicated import Load, house_across, spread
from tests.servers.cluster import PrivateCluster
from tests.support import SERVERS, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]


@pytest.fixture(scope="module", params=SERVERS)
def thing(request):
    """Three masters that stay: slots may move, and nothing is killed."""
    with PrivateCluster(request.param) as cluster:
        yield cluster


@pytest.fixture
def cluster(thing):
    """The same, emptied."""
    for port in thing.ports:
        with thing.client(port) as client:
            client.flushall()
    return thing


@pytest.fixture(params=SERVERS)
def pairs(request):
    """Three masters with a replica each, to be killed."""
    with PrivateCluster(request.param, replicas=1) as cluster:
        yield cluster


# --- R04


async def test_r04_queues_on_three_masters_share_a_worker_and_a_heap_of_dead_letters(cluster):
    """Whatever is done to a queue stays on its slot, and what leaves it takes two steps."""
    queues = spread(cluster)
    async with house_across(cluster) as house, Load(house, queues=queues, durable=None) as load:
        for queue in queues:
            keys = load.app.session.keyspace.queue(queue)
            assert len({key_slot(getattr(keys, name).encode()) for name in keys.__slots__}) == 1
        async with serving(load.worker_app):
            await load.goes_on(150)
            buried = await load.done()
        assert Counter(load.queue_of(number) for number in buried).keys() == set(queues)
        fates = [fate.fate async for fate in load.app.dead_letters.replay_matching(limit=3, force=True)]
        assert fates == ["replayed"] * 3
        assert await load.app.dead_letters.purge_matching() == len(buried) - 3


# --- R05


@pytest.mark.parametrize("what", ["the queue", "the dead letters"])
async def test_r05_a_slot_moves_under_load(cluster, what):
    """Key by key, while messages come in, run, fail, wait and die. TRYAGAIN, ASK and MOVED are outages like others."""
    queue, *_ = spread(cluster)
    key = f"queue:{queue}" if what == "the queue" else "queue:dead_letter"
    async with house_across(cluster) as house, Load(house, queues=[queue], durable=None) as load:
        async with serving(load.worker_app) as worker:
            await load.goes_on()
            for _ in range(2):
                source = cluster.master_of(key)
                target = next(port for port in cluster.ports[:3] if port != source)
                await asyncio.to_thread(cluster.migrate, key, target, step=lambda: wait_until(_soon(0.05)))
                await load.goes_on()
            await load.done()
            assert worker.worker.health.ready().ok
        assert sorted(load.ran) == sorted(set(load.ran)), "leases and owners move along: nothing runs twice"


def _soon(seconds):
    until = time.monotonic() + seconds
    return lambda: time.monotonic() > until


async def test_r05_a_blocked_reader_follows_its_slot(cluster):
    """It waits on a node that has the queue no more: what comes in is processed within seconds."""
    queue, *_ = spread(cluster)
    async with (
        house_across(cluster) as house,
        Load(house, queues=[queue], durable=None, limits={"block": 10.0}) as load,
    ):
        await load.stop()
        async with serving(load.worker_app):
            source = cluster.master_of(f"queue:{queue}")
            await eventually(lambda: _blocked(cluster, source) >= 1)
            target = next(port for port in cluster.ports[:3] if port != source)
            await asyncio.to_thread(cluster.migrate, f"queue:{queue}", target)
            moved_at = time.monotonic()
            await load.publish(10_000)
            await eventually(lambda: 10_000 in load.ran)
            assert time.monotonic() < moved_at + 5


def _blocked(cluster, port):
    with cluster.client(port) as client:
        return client.info("clients")["blocked_clients"]


# --- R06


async def test_r06_a_master_that_is_killed_is_replaced(pairs):
    """Under load. Who publishes and who works finds the promoted replica; nothing confirmed is lost, nothing stuck."""
    queues = spread(pairs)
    async with house_across(pairs) as house, Load(house, queues=queues) as load, serving(load.worker_app) as worker:
        await load.goes_on()
        dead = pairs.master_of(f"queue:{queues[0]}")
        pairs.nodes[dead].kill()
        await _replaced(pairs, queues[0], dead)
        found_at = time.monotonic()
        pairs.nodes[dead].start()
        await load.goes_on(100)
        assert time.monotonic() < found_at + 15
        await load.done()
        assert worker.worker.health.ready().ok


async def test_r06_a_master_that_thaws_finds_itself_replaced(pairs):
    """Frozen, replaced, and back: what it is sent then is confirmed by nobody."""
    queues = spread(pairs)
    async with house_across(pairs) as house, Load(house, queues=queues) as load, serving(load.worker_app):
        await load.goes_on()
        frozen = pairs.master_of(f"queue:{queues[0]}")
        pairs.nodes[frozen].pause()
        await _replaced(pairs, queues[0], frozen)
        pairs.nodes[frozen].resume()
        await load.goes_on(100)
        await load.done()


async def _replaced(cluster, queue, old):
    other = next(port for port in cluster.ports if port != old)

    def moved():
        try:
            return cluster.master_of(f"queue:{queue}", ask=other) != old and cluster.is_well(other)
        except LookupError:
            return False

    await eventually(moved)


async def test_r06_without_a_replica_everything_waits_for_the_master(cluster):
    """A node is away and nobody replaces it: workers say that they are not ready, and go on when it is back."""
    queues = spread(cluster)
    async with (
        house_across(cluster) as house,
        Load(house, queues=queues, durable=None) as load,
        serving(load.worker_app) as worker,
    ):
        await load.goes_on()
        dead = cluster.master_of(f"queue:{queues[0]}")
        cluster.nodes[dead].kill()
        await eventually(lambda: not worker.worker.health.ready().ok, 40)
        assert not worker.task.done()
        cluster.nodes[dead].start()
        await eventually(lambda: all(cluster.is_well(port) for port in cluster.ports))
        await load.goes_on()
        await eventually(lambda: worker.worker.health.ready().ok)
        await load.done()


async def test_r06_a_frozen_node_delays_no_beat_to_another(cluster):
    """A Cluster that goes on without some of its slots: queues on the other nodes keep their leases and their pace."""
    for port in cluster.ports:
        with cluster.client(port) as client:
            client.config_set("cluster-require-full-coverage", "no")
    queues = spread(cluster)
    async with (
        house_across(cluster) as house,
        Load(house, queues=queues, durable=None) as load,
        serving(load.worker_app) as worker,
    ):
        await load.goes_on()
        frozen = cluster.master_of(f"queue:{queues[0]}")
        others = [lane for lane in worker.worker.lanes if cluster.master_of(f"queue:{lane.queue}") != frozen]
        cluster.nodes[frozen].pause()
        frozen_at, longest = time.monotonic(), 0.0
        try:
            while time.monotonic() < frozen_at + 6:
                longest = max(longest, *(time.monotonic() - lane.last_beat for lane in others))
                await asyncio.sleep(0)
        finally:
            cluster.nodes[frozen].resume()
        assert longest < 1.0  # they beat every quarter of a second
        await eventually(lambda: all(cluster.is_well(port) for port in cluster.ports))
        await load.goes_on()
        await load.done()


# --- R07


async def test_r07_scripts_are_known_to_no_node_in_advance(cluster):
    """Nor after it has forgotten them, under load."""
    queues = spread(cluster)
    async with house_across(cluster) as house, Load(house, queues=queues, durable=None) as load:
        async with serving(load.worker_app):
            for _ in range(3):
                await load.goes_on()
                for port in cluster.ports:
                    with cluster.client(port) as client:
                        client.script_flush()
            await load.done()
        assert load.doubtful == []


# --- R08


async def test_r08_what_a_dead_worker_held_is_taken_over_on_every_node(cluster):
    """One path for all: by its missing beat, whichever node its queue lies on."""
    queues = spread(cluster)
    async with house_across(cluster) as house, Load(house, queues=queues, durable=None, lease=30.0) as load:
        await load.stop()
        async with serving(load.worker_app):
            pass  # the groups exist
        numbers = range(10_000, 10_006)
        for number in numbers:
            await load.publish(number)
        for queue in queues:
            _vanish_with_all(cluster, house.books.of(queue).keys)
        async with serving(load.worker_app) as worker:
            await eventually(lambda: set(numbers) <= set(load.ran))
            assert sum(event.taken for event in worker.events.of(Reclaimed)) == len(numbers)
            await load.done()


def _vanish_with_all(cluster, keys):
    """As a worker that fetched whatever was there, and has not beaten for years."""
    with cluster.client(cluster.master_of(keys.normal)) as client:
        client.hset(keys.workers, "ghost", 1)
        assert client.xreadgroup("streamq", "ghost", {keys.normal: ">"})


# --- dead letters (protocol 5)


async def test_dead_letters_survive_a_failover_between_their_two_steps(pairs):
    """Moved and not yet gone, then the master of the queue is replaced: each lies there once."""
    queues = spread(pairs)
    async with house_across(pairs) as house, Load(house, queues=queues) as load:
        async with serving(load.worker_app):
            await load.goes_on(200)
            for queue in queues[:2]:
                dead = pairs.master_of(f"queue:{queue}")
                pairs.nodes[dead].kill()
                await _replaced(pairs, queue, dead)
                pairs.nodes[dead].start()
                await load.goes_on(100)
            buried = await load.done()
        assert len(buried) == len(set(buried))
