"""What a publish waits for beyond Redis itself: the disk, or a replica. What cannot be confirmed is never claimed."""

import asyncio
import functools
from contextlib import asynccontextmanager, contextmanager

import pytest
import redis

from streamq.core.errors import RedisUnavailable
from streamq.store import durability
from streamq.store.connection import COMMAND_TIMEOUT, Connections
from streamq.store.durability import everysec_is_true
from streamq.store.keys import Keyspace
from streamq.store.outages import RedisRefused
from streamq.store.streams import QueueStore
from streamq.store.url import parse_url
from streamq.testing.fake import FakeConnections
from streamq.testing.server import PrivateServer
from tests.contract.desk import GROUP, ONCE, QUEUE, WINDOW, draft
from tests.servers.ports import free_port
from tests.support import SERVERS, server_binary, wait_until

AOF = ["--appendonly", "yes", "--appendfsync"]
WITH_WAITAOF = ["valkey-9.1", "redis-8.2"]


@asynccontextmanager
async def store(url):
    """A queue as a process sees it that has just come: its connections have written nothing yet."""
    connections = Connections(parse_url(url))
    try:
        yield QueueStore(connections, Keyspace(), QUEUE, GROUP)
    finally:
        await connections.aclose()


async def publish(url, durable, *ids):
    async with store(url) as queue:
        drafts = [draft(message_id) for message_id in ids or ("a",)]
        return await queue.publish_durably(drafts, durable, window_ms=WINDOW, max_length=2, once_ms=ONCE)


async def publish_plainly(url, *ids):
    async with store(url) as queue:
        return await queue.publish([draft(i) for i in ids], window_ms=WINDOW, max_length=0, once_ms=ONCE)


@contextmanager
def alone(kind, *args):
    with PrivateServer(server_binary(kind), args=args) as server, redis.Redis.from_url(server.url) as client:
        yield server.url, client


@pytest.fixture
def hurry(monkeypatch):
    """Nobody waits for what does not come."""
    monkeypatch.setattr(durability, "CONFIRM_WITHIN", 0.2)


def test_the_wait_ends_before_the_connection_is_given_up():
    """Else a slow disk would look like a Redis that is gone."""
    assert durability.CONFIRM_WITHIN < COMMAND_TIMEOUT


# --- on the disk


@pytest.mark.parametrize(
    ("kind", "policy"), [("valkey-9.1", "always"), ("redis-8.2", "always"), ("redis-8.2", "everysec")]
)
async def test_the_disk_confirms(kind, policy):
    """One confirmation for all of a call, whatever became of each: a duplicate and one without room are in it, too."""
    with alone(kind, *AOF, policy) as (url, client):
        assert await publish(url, "fsync", "a", "b", "a", "c") == (["OK", "OK", "DUP", "FULL"], "")
        assert client.xlen(f"queue:{QUEUE}") == 2
        assert client.hgetall(f"{{queue:{QUEUE}}}:ledger") == {b"accepted": b"2", b"added:normal": b"2"}


async def test_m15_valkey_is_not_believed_before_the_disk_has_it():
    """With everysec Valkey answers WAITAOF before the disk has anything: that is not taken for a confirmation."""
    with alone("valkey-9.1", *AOF, "everysec") as (url, client):
        words, doubt = await publish(url, "fsync")
        assert words == ["OK"]
        assert "valkey 9.1" in doubt
        assert "CONFIG SET appendfsync always" in doubt
        client.config_set("appendfsync", "always")
        assert await publish(url, "fsync") == (["DUP"], "")


async def test_m15_a_server_without_waitaof():
    """A server without WAITAOF accepts the message, and it is said that nothing confirms it."""
    with alone("redis-7.0", *AOF, "always") as (url, _):
        words, doubt = await publish(url, "fsync")
        assert words == ["OK"]
        assert doubt.startswith("WAITAOF needs Redis 7.2 or Valkey, and this server has none")


@pytest.mark.parametrize("kind", WITH_WAITAOF)
async def test_m15_a_server_without_an_append_only_file(kind):
    """So does one without an append-only file."""
    with alone(kind) as (url, _):
        words, doubt = await publish(url, "fsync")
        assert words == ["OK"]
        assert doubt.startswith("Redis keeps no append-only file: CONFIG SET appendonly yes")


@pytest.mark.parametrize("kind", WITH_WAITAOF)
async def test_a_disk_that_does_not_confirm_in_time(kind, hurry):
    """With `no` the system writes when it likes, and Redis never knows."""
    with alone(kind, *AOF, "no") as (url, _):
        words, doubt = await publish(url, "fsync")
        assert words == ["OK"]
        assert "did not confirm it within 0.2 s" in doubt


async def test_m15_a_duplicate_waits_for_the_first_try(hurry):
    """A connection that found a duplicate wrote nothing and is told at once that all is well: a write goes first."""
    with alone("redis-8.2", *AOF, "no") as (url, _):
        assert await publish_plainly(url, "a") == ["OK"]
        words, doubt = await publish(url, "fsync", "a")
        assert words == ["DUP"]
        assert "did not confirm" in doubt


async def test_an_idempotent_message_is_confirmed_as_the_first_one():
    with alone("redis-8.2", *AOF, "always") as (url, _):
        async with store(url) as queue:
            limits = {"window_ms": WINDOW, "max_length": 0, "once_ms": ONCE}
            await queue.publish([draft("a", once="k")], **limits)
            assert await queue.publish_durably([draft("b", once="k")], "fsync", **limits) == (["IDEM a"], "")


# --- rights


@pytest.mark.parametrize(
    ("kind", "missing", "doubt"),
    [
        ("redis-8.2", "-waitaof", "may not send WAITAOF: ACL SETUSER USER +waitaof"),
        ("redis-8.2", "-hincrby", "did not take the write that is waited for"),
        ("redis-8.2", "-config", ""),
        ("redis-8.2", "-hello", ""),
        ("valkey-9.1", "-config", "allow CONFIG GET"),
        ("valkey-9.1", "-hello", ""),
    ],
)
async def test_a_user_with_few_rights(kind, missing, doubt):
    """What may not be asked is not believed, and where it need not be asked it is not missed."""
    with alone(kind, *AOF, "always") as (url, client):
        await publish_plainly(url, "a")
        client.execute_command("ACL", "SETUSER", "default", missing)
        words, found = await publish(url, "fsync")
        assert words == ["DUP"]
        assert doubt in found
        assert bool(doubt) == bool(found)


@pytest.mark.parametrize("durable", ["fsync", "replica"])
async def test_a_script_that_is_refused_is_no_question_of_durability(durable):
    with alone("redis-8.2", *AOF, "always") as (url, client):
        client.set(f"queue:{QUEUE}", "not ours")
        with pytest.raises(RedisRefused):
            await publish(url, durable)


@pytest.mark.parametrize(
    ("server", "version", "true"),
    [("redis", "8.0.0", True), ("redis", "8.2.3", True), ("redis", "7.4.2", False), ("redis", "7.2.4", False),
     ("valkey", "8.1.4", False), ("valkey", "9.1.2", False), ("redis", "", False), ("this server", "", False)],
)  # fmt: skip
def test_who_is_believed_with_everysec(server, version, true):
    assert everysec_is_true(server, version) is true


# --- on a replica


@pytest.fixture(params=SERVERS)
def pair(request):
    """A master and its replica: the url of the master, a client of it, and the replica's server."""
    kind, port = request.param, free_port()
    master = ["--port", str(port), "--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0"]
    copy = PrivateServer(server_binary(kind), args=["--replicaof", f"127.0.0.1 {port}"])
    with alone(kind, *master) as (url, client), copy as replica:
        wait_until(lambda: _online(client) == 1)
        yield url, client, replica


def _online(client):
    found = client.info("replication")
    return sum(found[f"slave{number}"]["state"] == "online" for number in range(found["connected_slaves"]))


async def test_a_replica_confirms(pair):
    url, _, replica = pair
    assert await publish(url, "replica", "a", "a") == (["OK", "DUP"], "")
    with redis.Redis.from_url(replica.url) as copy:
        assert copy.xlen(f"queue:{QUEUE}") == 1


async def test_m15_a_replica_that_hangs_confirms_nothing(pair, monkeypatch):
    """A replica that hangs confirms nothing, not even a duplicate: it may never have got the first try."""
    url, _, replica = pair
    replica.pause()
    monkeypatch.setattr(durability, "CONFIRM_WITHIN", 0.2)
    assert await publish_plainly(url, "a") == ["OK"]
    for words in (["DUP", "OK"], ["DUP", "DUP"]):
        found, doubt = await publish(url, "replica", "a", "b")
        assert found == words
        assert "no replica confirmed it within 0.2 s" in doubt
    replica.resume()
    monkeypatch.undo()
    assert await publish(url, "replica", "a", "b") == (["DUP", "DUP"], "")


async def test_without_a_replica_nobody_waits(pair, monkeypatch):
    """It is known at once, and as soon as one is back it confirms again."""
    monkeypatch.setattr(durability, "CONFIRM_WITHIN", 3600.0)  # who waits for this fails
    url, client, replica = pair
    replica.stop()
    wait_until(lambda: _online(client) == 0)
    words, doubt = await publish(url, "replica")
    assert words == ["OK"]
    assert doubt.startswith("no replica is connected to this Redis")
    monkeypatch.setattr(durability, "CONFIRM_WITHIN", 4.0)
    replica.start()
    wait_until(lambda: _online(client) == 1)
    assert await publish(url, "replica") == (["DUP"], "")


async def test_who_may_not_ask_for_replicas_asks_them(pair):
    url, client, _ = pair
    client.execute_command("ACL", "SETUSER", "default", "-role")
    assert await publish(url, "replica") == (["OK"], "")
    client.execute_command("ACL", "SETUSER", "default", "-wait")
    assert "may not send WAIT: ACL SETUSER USER +wait" in (await publish(url, "replica"))[1]


async def test_a_replica_that_is_promoted_is_found(pair):
    """What takes no writes now may take them once it is reached anew."""
    _, _, replica = pair
    async with store(replica.url) as queue, asyncio.timeout(10):
        offer = functools.partial(queue.publish_durably, [draft()], window_ms=WINDOW, max_length=0, once_ms=ONCE)
        for durable in ("replica", "fsync"):
            with pytest.raises(RedisUnavailable, match="ReadOnly"):
                await offer(durable)
        with redis.Redis.from_url(replica.url) as client:
            client.replicaof("NO", "ONE")
        words, doubt = await offer("replica")
        assert words == ["OK"]
        assert doubt.startswith("no replica is connected")


# --- one connection


async def test_a_connection_that_breaks_leaves_it_unknown(hurry):
    """Nothing is said about a message whose fate nobody knows."""
    with (
        PrivateServer(server_binary("redis-8.2"), args=[*AOF, "no"]) as server,
        redis.Redis.from_url(server.url) as client,
    ):
        async with store(server.url) as queue:
            offer = queue.publish_durably([draft()], "fsync", window_ms=WINDOW, max_length=0, once_ms=ONCE)
            task = asyncio.ensure_future(offer)
            await asyncio.to_thread(wait_until, lambda: client.info("clients")["blocked_clients"] == 1)
            client.client_kill_filter(_type="normal", skipme=True)
            with pytest.raises(RedisUnavailable):
                await task


async def test_the_fake_confirms():
    """Tests of an app run on it unchanged."""
    queue = QueueStore(FakeConnections(), Keyspace(), QUEUE, GROUP)
    for durable in ("fsync", "replica"):
        words, doubt = await queue.publish_durably(
            [draft(durable)], durable, window_ms=WINDOW, max_length=0, once_ms=ONCE
        )
        assert (words, doubt) == (["OK"], "")
