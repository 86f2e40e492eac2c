"""In a Cluster and behind sentinels the wait goes to the node that ran the script, also when that has changed."""

import contextlib

import pytest

from streamq.core.errors import RedisUnavailable
from streamq.store.connection import Connections
from streamq.store.keys import Keyspace
from streamq.store.streams import QueueStore
from streamq.store.url import parse_url
from tests.contract.desk import GROUP, ONCE, QUEUE, WINDOW, draft
from tests.servers.cluster import PrivateCluster
from tests.servers.sentinel import PrivateSentinel
from tests.support import wait_until

KEY = f"queue:{QUEUE}"


@pytest.fixture(scope="module")
def cluster():
    with PrivateCluster("redis-8.2", args=["--appendfsync", "always"]) as cluster:
        yield cluster


@pytest.fixture
async def offer(cluster):
    connections = Connections(parse_url(cluster.url))
    store = QueueStore(connections, Keyspace(clustered=True), QUEUE, GROUP)

    async def offer(message_id):
        return await store.publish_durably([draft(message_id)], "fsync", window_ms=WINDOW, max_length=0, once_ms=ONCE)

    yield offer
    await connections.aclose()


async def test_the_node_of_the_queue_confirms(cluster, offer):
    assert await offer("a") == (["OK"], "")
    with cluster.client(cluster.master_of(KEY)) as client:
        assert client.xlen(KEY) == 1


async def test_a_slot_that_moved_is_found_again(cluster, offer):
    """The first try is told that it came to the wrong node, and learns the right one. Nothing is claimed meanwhile."""
    assert (await offer("b"))[1] == ""
    source = cluster.master_of(KEY)
    target = next(port for port in cluster.ports if port != source)
    with cluster.client(source) as client:
        slot = client.execute_command("CLUSTER", "KEYSLOT", KEY)
        for name in client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            client.delete(name)
    owner = cluster.id_of(target)
    for port in (target, source, *cluster.ports):
        with cluster.client(port) as client:
            client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", owner)
    with pytest.raises(RedisUnavailable, match="Moved"):
        await offer("c")
    assert await offer("c") == (["OK"], "")
    with cluster.client(target) as client:
        assert client.xlen(KEY) == 1


async def test_a_node_that_is_gone_confirms_nothing(cluster, offer):
    """Until it is back."""
    assert (await offer("d"))[1] == ""
    node = cluster.nodes[cluster.master_of(KEY)]
    node.kill()
    with pytest.raises(RedisUnavailable):
        await offer("e")
    node.start()
    wait_until(lambda: all(map(cluster.is_well, cluster.ports)), 30)
    # One more try may meet what the client still remembers of before.
    with contextlib.suppress(RedisUnavailable):
        await offer("e")
    words, doubt = await offer("e")
    assert words in (["OK"], ["DUP"])
    assert doubt == ""


async def test_behind_sentinels_the_master_is_asked():
    """With its replica and its disk."""
    with PrivateSentinel("redis-8.2") as watched:
        connections = Connections(parse_url(watched.url))
        store = QueueStore(connections, Keyspace(), QUEUE, GROUP)
        for durable in ("replica", "fsync"):
            limits = {"window_ms": WINDOW, "max_length": 0, "once_ms": ONCE}
            assert await store.publish_durably([draft(durable)], durable, **limits) == (["OK"], "")
        await connections.aclose()
