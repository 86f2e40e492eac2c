"""Redis without an event loop: the same calls, on sockets that block, on every topology."""

import asyncio
import socket
import threading
from contextlib import closing
from types import SimpleNamespace

import pytest
import redis

from streamq.core.errors import RedisUnavailable
from streamq.store import masters
from streamq.store.blocking import BlockingConnections, finish
from streamq.store.blocking_wire import BlockingWire
from streamq.store.keys import Keyspace
from streamq.store.streams import QueueStore
from streamq.store.url import parse_url
from tests.contract.desk import GROUP, ONCE, QUEUE, WINDOW, draft
from tests.servers.cluster import PrivateCluster
from tests.servers.sentinel import PrivateSentinel
from tests.support import wait_until

KEY = f"queue:{QUEUE}"
LIMITS = {"window_ms": WINDOW, "max_length": 0, "once_ms": ONCE}


@pytest.fixture(scope="module")
def sentinel():
    """A master with a replica, watched; nothing is killed."""
    with PrivateSentinel() as sentinel:
        yield sentinel


@pytest.fixture(scope="module")
def cluster():
    with PrivateCluster("redis-8.2", args=["--appendfsync", "always"]) as cluster:
        yield cluster


def connected(url):
    return closing(BlockingConnections(parse_url(url)))


def client_id(connections):
    return finish(connections.execute("CLIENT", "ID"))


def watches():
    return sum(thread.name == "streamq-sentinel" for thread in threading.enumerate())


# --- one server


def test_a_script_is_sent_by_its_digest_once_the_server_knows_it(server):
    with redis.Redis.from_url(server.url) as client, connected(server.url) as connections:
        client.script_flush()
        store = QueueStore(connections, Keyspace(), QUEUE, GROUP)
        for name in ("a", "b", "b"):
            words = finish(store.publish([draft(name)], **LIMITS))
        assert words == ["DUP"]
        assert client.xlen(KEY) == 2


def test_what_is_sent_together_is_answered_together(server):
    with connected(server.url) as connections:
        refused, echo = finish(connections.together("k", ("GET",), ("ECHO", "x")))
        assert isinstance(refused, redis.ResponseError)
        assert echo == b"x"


def test_a_wire_is_used_again_until_it_breaks(server):
    with connected(server.url) as connections:
        first = client_id(connections)
        with pytest.raises(RedisUnavailable):
            finish(connections.execute("INCR"))
        assert client_id(connections) == first
        with redis.Redis.from_url(server.url) as client:
            client.execute_command("CLIENT", "KILL", "ID", first)
        assert client_id(connections) != first


def test_whoever_ends_it_at_the_keyboard_spoils_nothing(server, monkeypatch):
    """The reply that was not waited for is not taken for the next one."""
    with connected(server.url) as connections:
        first = client_id(connections)
        (wire,) = connections._resting

        def interrupted():
            raise KeyboardInterrupt

        monkeypatch.setattr(wire, "_receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            finish(connections.execute("ECHO", "lost"))
        assert client_id(connections) != first


@pytest.mark.parametrize("answer", [b"+OK\r\nHTTP/1.1 400\r\n", b"+OK\r\n"], ids=["nonsense", "nothing"])
def test_what_is_no_answer_of_redis_is_the_end_of_a_wire(answer):
    """As is an end without an answer."""
    here, there = socket.socketpair()
    with there:
        wire = BlockingWire(SimpleNamespace(_sock=here))
        there.sendall(answer)
        there.shutdown(socket.SHUT_WR)
        with pytest.raises(redis.ConnectionError):
            wire.send((("PING",), ("PING",)))
    assert here.fileno() == -1


def test_what_waits_for_a_loop_is_a_bug():
    with pytest.raises(RuntimeError, match="there is none"):
        finish(asyncio.sleep(0))


def test_what_is_in_use_while_it_is_closed_is_closed_after_that(server, monkeypatch):
    with connected(server.url) as connections:
        client_id(connections)
        (wire,) = connections._resting
        send = wire.send

        def closing_meanwhile(commands):
            connections.close()
            return send(commands)

        monkeypatch.setattr(wire, "send", closing_meanwhile)
        assert client_id(connections)
        assert connections._resting == []
        assert wire._socket.fileno() == -1


# --- behind sentinels


def test_a_master_that_was_replaced_is_left(sentinel, monkeypatch):
    """Though it would answer: it is going to forget what it is told."""
    monkeypatch.setattr(masters, "ASK_EVERY", 0.02)
    with connected(sentinel.url) as connections:
        assert watches() == 0
        first = client_id(connections)
        wait_until(lambda: connections._watch.master is not None)
        assert client_id(connections) == first
        connections._watch.stop()
        connections._watch.master = ("127.0.0.1", 1)
        assert client_id(connections) != first
        store = QueueStore(connections, Keyspace(), QUEUE, GROUP)
        assert finish(store.publish_durably([draft("a")], "replica", **LIMITS)) == (["OK"], "")
    assert watches() == 0


def test_a_demoted_server_is_left_without_sentinels(sentinel):
    replica = next(port for port in sentinel.ports if port != sentinel.master())
    with connected(f"redis://127.0.0.1:{replica}") as connections:
        first = client_id(connections)
        with pytest.raises(RedisUnavailable, match="ReadOnly"):
            finish(connections.execute("SADD", "s", "a"))
        assert client_id(connections) != first


# --- in a Cluster


def test_a_slot_that_moved_is_found_again(cluster):
    """Also by a batch, whose first try is told that it came to the wrong node."""
    with connected(cluster.url) as connections:
        store = QueueStore(connections, Keyspace(clustered=True), QUEUE, GROUP)
        finish(store.register())
        assert finish(store.publish([draft("a")], **LIMITS)) == ["OK"]
        target, *_ = (port for port in cluster.ports if port != cluster.master_of(KEY))
        cluster.migrate(KEY, target)
        assert finish(store.publish([draft("a")], **LIMITS)) == ["DUP"]
        assert finish(store.publish_durably([draft("b")], "fsync", **LIMITS)) == (["OK"], "")
        target, *_ = (port for port in cluster.ports if port != cluster.master_of(KEY))
        cluster.migrate(KEY, target)
        with pytest.raises(RedisUnavailable, match="Moved"):
            finish(store.publish_durably([draft("c")], "fsync", **LIMITS))
        assert finish(store.publish_durably([draft("c")], "fsync", **LIMITS)) == (["OK"], "")
        with cluster.client(target) as client:
            assert client.xlen(KEY) == 3


def test_a_node_that_is_gone_is_an_outage_until_it_is_back(cluster):
    with connected(cluster.url) as connections:
        store = QueueStore(connections, Keyspace(clustered=True), QUEUE, GROUP)
        assert finish(store.publish_durably([draft("d")], "fsync", **LIMITS)) == (["OK"], "")
        node = cluster.nodes[cluster.master_of(KEY)]
        node.kill()
        for offer in (store.publish([draft("e")], **LIMITS), store.publish_durably([draft("e")], "fsync", **LIMITS)):
            with pytest.raises(RedisUnavailable):
                finish(offer)
        node.start()
        wait_until(lambda: all(map(cluster.is_well, cluster.ports)), 30)
        words = []

        def accepted():
            try:
                words[:] = finish(store.publish([draft("e")], **LIMITS))
            except RedisUnavailable:  # it may meet what the client still remembers of before
                return False
            return True

        wait_until(accepted)
        assert words == ["OK"]
