"""A Cluster of three masters: the reader that waits on the right node, and what can be said about the whole."""

import asyncio

import pytest
from redis import exceptions

from streamq.store import topology
from streamq.store.connection import connected
from streamq.store.keys import Keyspace
from streamq.store.reader import QueueReader
from streamq.store.streams import QueueStore
from streamq.store.topology import look_at_cluster
from streamq.store.url import parse_url
from tests.servers.cluster import PrivateCluster
from tests.support import wait_until

KEYSPACE = Keyspace(clustered=True)


@pytest.fixture(scope="module")
def cluster():
    """Three masters, one of them with a replica that the tests may kill."""
    with PrivateCluster(replicas=1) as cluster:
        yield cluster


@pytest.fixture
async def connections(cluster):
    async with connected(parse_url(cluster.url)) as connections:
        yield connections


def blocked(cluster, port):
    with cluster.client(port) as client:
        return client.info("clients")["blocked_clients"]


async def test_a_reader_that_waits_is_woken_on_whichever_node_it_waits(cluster, connections):
    """Its slot may move while it waits nowhere."""
    store = QueueStore(connections, KEYSPACE, "orders", "workers")
    await store.ensure()
    reader = QueueReader(connections, "orders", store.keys, "workers", "us")
    for target in [port for port in cluster.ports[:3] if port != cluster.master_of("queue:orders")]:
        await asyncio.to_thread(cluster.migrate, "queue:orders", target)
        assert await reader.fetch("normal", 1) == []
        waiting = asyncio.ensure_future(reader.wait(60.0))
        await asyncio.to_thread(wait_until, lambda target=target: blocked(cluster, target) == 1)
        await reader.wake()
        assert await asyncio.wait_for(waiting, 5) == []


async def test_a_script_follows_the_slot_of_its_queue(cluster, connections):
    store = QueueStore(connections, KEYSPACE, "orders", "workers")
    await store.ensure()
    for target in [port for port in cluster.ports[:3] if port != cluster.master_of("queue:orders")]:
        await asyncio.to_thread(cluster.migrate, "queue:orders", target)
        await store.ensure()
        assert (await connections.node_of("queue:orders")).port == target


async def test_a_script_whose_node_cannot_be_reached_is_left_to_redis_py(cluster, connections, monkeypatch):
    """It asks the others who has the key now."""

    async def refuse(node):
        raise exceptions.ConnectionError(f"{node.name} is away")

    monkeypatch.setattr(connections, "_connect", refuse)
    await QueueStore(connections, KEYSPACE, "orders", "workers").ensure()


async def test_a_look_at_a_cluster_tells_who_has_which_queue(cluster, connections):
    view = await look_at_cluster(connections, KEYSPACE, ["orders", "mails"])
    assert (view.state, view.uncovered) == ("ok", 0)
    assert sum(node.slots for node in view.masters) == topology.SLOTS
    assert {len(node.replicas) for node in view.masters} == {1}
    assert not any(node.failed for node in view.masters)
    places = {queue: address for address, queues in view.queues.items() for queue in queues}
    assert places == {queue: f"127.0.0.1:{cluster.master_of(f'queue:{queue}')}" for queue in ("orders", "mails")}


async def test_a_replica_that_is_away_is_none(cluster, connections):
    cluster.nodes[cluster.ports[3]].kill()

    survivors = []
    async with asyncio.timeout(20):
        while survivors != [0, 1, 1]:
            view = await look_at_cluster(connections, KEYSPACE, [])
            survivors = sorted(len(node.replicas) for node in view.masters)


async def test_who_may_not_take_over_is_no_heir_but_well():
    """`nofailover` is no failure; a master carries it, too, for the day on which it is a replica."""

    class Told:
        async def execute(self, command):
            master = {"flags": "master,nofailover", "master_id": "-", "node_id": "m", "slots": [["0", "16383"]]}
            replica = {"master_id": "m", "slots": []}
            nodes = {
                "h:1": master,
                "h:2": {**replica, "flags": "slave,nofailover", "node_id": "a"},
                "h:3": {**replica, "flags": "slave,fail?", "node_id": "b"},
                "h:4": {**replica, "flags": "slave", "node_id": "c"},
            }
            return {"CLUSTER INFO": {"cluster_state": "ok"}, "CLUSTER NODES": nodes}[command]

    view = await look_at_cluster(Told(), KEYSPACE, [])
    assert view.masters == [topology.Node("h:1", topology.SLOTS, failed=False, replicas=["h:4"])]


def test_a_replica_says_what_is_wrong_with_it():
    well = {"is_sdown": False, "is_odown": False, "is_disconnected": False, "master-link-status": "ok"}
    assert topology._trouble(well) == ""
    assert topology._trouble({**well, "is_sdown": True}) == "it does not answer"
    assert topology._trouble({**well, "master-link-status": "err"}) == "it has lost its master"
    assert topology._address("::1", 5) == "[::1]:5"
