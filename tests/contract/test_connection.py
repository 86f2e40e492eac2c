"""Connections: which clients there are, what their errors mean, and that nothing is sent twice behind our back."""

import asyncio

import anyio
import pytest
import redis
from redis import exceptions

from streamq.core.errors import RedisUnavailable
from streamq.store import connection
from streamq.store.connection import Connections, connected
from streamq.store.keys import Keyspace
from streamq.store.outages import GroupMissing, OutOfMemory, RedisRefused, redis_errors
from streamq.store.scripts import script
from streamq.store.streams import QueueStore
from streamq.store.url import parse_url
from streamq.testing.server import PrivateServer
from tests.contract.desk import draft
from tests.support import server_binary

ONE_KIND = pytest.mark.parametrize("server", ["valkey-9.1"], indirect=True)


@pytest.fixture
async def connections(server):
    async with connected(parse_url(server.url)) as connections:
        yield connections


@pytest.fixture
def mortal():
    """A server that the test may kill or freeze."""
    with PrivateServer(server_binary("valkey-9.1")) as server:
        yield server


def clients(server):
    return raw(server, "CLIENT", "LIST").count(b" addr=")


def raw(server, *command):
    with redis.Redis.from_url(server.url) as client:
        return client.execute_command(*command)


# --- what errors mean


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (exceptions.ResponseError("NOGROUP No such key 'x' or consumer group 'g'"), GroupMissing),
        (exceptions.ResponseError("UNBLOCKED the stream key no longer exists"), GroupMissing),
        (exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), OutOfMemory),
        (exceptions.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"), RedisRefused),
        (exceptions.AuthenticationError("WRONGPASS invalid username-password pair"), RedisRefused),
        (exceptions.NoPermissionError("this user has no permissions"), RedisRefused),
        (exceptions.ConnectionError("Error 2 connecting to unix socket /srv/NOGROUP/OOM/WRONGTYPE/s.sock"), None),
        (exceptions.ResponseError("MISCONF Redis is configured to save RDB snapshots"), None),
        (exceptions.ReadOnlyError("You can't write against a read only replica."), None),
        (exceptions.BusyLoadingError("Redis is loading the dataset in memory"), None),
        (exceptions.MasterDownError("MASTERDOWN Link with MASTER is down"), None),
        (exceptions.ClusterDownError("CLUSTERDOWN"), None),
        (exceptions.RedisClusterException("no node"), None),
        (exceptions.ResponseError("NOREPLICAS Not enough good replicas to write."), None),
        (exceptions.ResponseError("ERR in the ROOM"), None),
        (exceptions.TimeoutError("Timeout reading from socket"), None),
        (ConnectionResetError("reset"), None),
        (TimeoutError(), None),
    ],
    ids=lambda value: f"{type(value).__name__}-{value}"[:40] if isinstance(value, BaseException) else "",
)
def test_every_failure_of_redis_is_an_outage_of_one_kind(error, meaning):
    """The upper floors know one error, and three that want another answer than to wait."""
    with pytest.raises(RedisUnavailable) as caught, redis_errors():
        raise error
    assert type(caught.value) is (meaning or RedisUnavailable)
    assert caught.value.__cause__ is error
    assert str(caught.value).startswith(type(error).__name__)


@pytest.mark.parametrize(
    "error", [ValueError("ours"), RuntimeError("ours"), AttributeError("ours"), asyncio.CancelledError()], ids=repr
)
def test_what_is_no_failure_of_redis_passes(error):
    with pytest.raises(type(error)) as caught, redis_errors():
        raise error
    assert caught.value is error


@ONE_KIND
def test_a_write_to_a_connection_that_uvloop_has_closed_is_an_outage(server):
    """uvloop raises a bare RuntimeError, which redis-py lets through: taken for a bug, it ended the worker."""

    async def write_after_a_reset():
        _, writer = await asyncio.open_unix_connection(server.url.removeprefix("unix://"))
        writer.transport.abort()
        await asyncio.sleep(0)
        with pytest.raises(RedisUnavailable) as caught, redis_errors():
            writer.writelines([b"PING\r\n"])
        assert type(caught.value.__cause__) is RuntimeError

    anyio.run(write_after_a_reset, backend_options={"use_uvloop": True})


def test_an_error_shows_no_password():
    with pytest.raises(RedisUnavailable) as caught, redis_errors():
        raise exceptions.ConnectionError("redis://u:hunter2@host refused, password=hunter2")
    assert "hunter2" not in str(caught.value)


async def test_errors_of_real_servers_mean_the_same(server, connections):
    """In a script as in a plain command."""
    store = QueueStore(connections, Keyspace(), "orders", "workers")
    with pytest.raises(GroupMissing):
        await connections.execute("XREADGROUP", "GROUP", "g", "c", "STREAMS", "queue:none", ">")
    with pytest.raises(GroupMissing):
        await store.forget("w1", dead_after_ms=0)
    await connections.execute("SET", store.keys.ledger, "x")
    with pytest.raises(RedisRefused):
        await connections.execute("HGET", store.keys.ledger, "x")
    with pytest.raises(RedisRefused):
        await store.cancel(["a"])
    await connections.execute("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(OutOfMemory):
        await connections.execute("SET", "x", "y")
    with pytest.raises(OutOfMemory):
        await store.publish([draft()], window_ms=1, max_length=1, once_ms=1)


async def test_missing_rights_are_refusals(server):
    """Asking again would not help: a wrong password, a command or a key that this user may not touch."""
    raw(server, "ACL", "SETUSER", "weak", "reset", "on", ">secret", "+@connection", "+eval", "+evalsha", "+hlen", "~a")
    try:
        for user in ("weak:wrong", "nobody:secret"):
            async with connected(parse_url(server.url.replace("unix://", f"unix://{user}@"))) as connections:
                with pytest.raises(RedisRefused):
                    await connections.execute("PING")
        async with connected(parse_url(server.url.replace("unix://", "unix://weak:secret@"))) as connections:
            for command in (("GET", "a"), ("HLEN", "b"), ("EVAL", "#!lua\nreturn redis.call('HLEN', KEYS[1])", 1, "b")):
                with pytest.raises(RedisRefused):
                    await connections.execute(*command)
            with pytest.raises(RedisRefused):
                await connections.run(script("tally"), ["a"], ["-", 1])
    finally:
        raw(server, "ACL", "DELUSER", "weak")


# --- outages


async def test_a_server_that_is_gone_is_an_outage_and_comes_back(mortal):
    """The same connections work again as soon as the server does."""
    async with connected(parse_url(mortal.url)) as connections:
        assert await connections.execute("SET", "k", "v")
        mortal.kill()
        for _ in range(2):
            with pytest.raises(RedisUnavailable):
                await connections.execute("SET", "k", "v")
        with pytest.raises(RedisUnavailable):
            await connections.run(script("tally"), ["x"], ["-", 1])
        mortal.start()
        assert await connections.execute("GET", "k") is None


async def test_a_write_without_a_reply_is_sent_once(mortal, monkeypatch):
    """redis-py would repeat it up to ten times: one XADD, many entries."""
    monkeypatch.setattr(connection, "COMMAND_TIMEOUT", 0.2)
    async with connected(parse_url(mortal.url)) as connections:
        await connections.execute("PING")
        mortal.pause()
        with pytest.raises(RedisUnavailable):
            await connections.execute("XADD", "s", "*", "a", "b")
        mortal.resume()
        assert await connections.execute("XLEN", "s") == 1


@ONE_KIND
async def test_a_connection_that_is_closed_while_it_opens_is_an_outage(connections):
    """redis-py closes those of a Cluster, and of a master that was replaced, while other tasks use them."""
    client = connections.commands
    opening = await client.connection_pool.get_connection()
    await opening.disconnect()
    with pytest.raises(RedisUnavailable, match="AttributeError"), redis_errors():
        await opening._send_packed_command([b"PING"])


# --- clients


@ONE_KIND
async def test_there_is_one_client_for_commands_and_one_for_each_reader(connections):
    assert connections.commands is connections.commands
    readers = [connections.reader("k"), connections.reader("k")]
    ids = {await line.send("CLIENT", "ID") for line in readers} | {await connections.execute("CLIENT", "ID")}
    assert len(ids) == 3
    assert not connections.clustered


@ONE_KIND
async def test_closing_closes_every_connection(server):
    before = clients(server)
    connections = Connections(parse_url(server.url))
    await connections.execute("PING")
    await connections.reader("k").send("PING")
    assert clients(server) == before + 2
    await connections.aclose()
    await connections.aclose()
    assert clients(server) == before


@ONE_KIND
async def test_a_reader_that_is_dropped_leaves_the_others_alone(server):
    """One app may run one worker after the other: their readers must not pile up until it is closed."""
    before = clients(server)
    async with connected(parse_url(server.url)) as connections:
        readers = [connections.reader("k"), connections.reader("k")]
        for reader in readers:
            await reader.send("PING")
        await connections.execute("PING")
        await connections.drop_reader(readers[0])
        assert clients(server) == before + 2
        assert await readers[1].send("PING")
        await connections.drop_reader(readers[1])
        await connections.drop_reader(readers[1])
        await connections.aclose()
        assert clients(server) == before


async def test_closing_a_dead_connection_is_no_failure(mortal):
    async with connected(parse_url(mortal.url)) as connections:
        await connections.execute("PING")
        mortal.kill()


class Recorder:
    """Stands for a client class of redis-py and keeps what it was made with."""

    def __init__(self):
        self.made = []

    def __call__(self, *args, **options):
        self.made.append((args, options))
        return self

    from_url = master_for = __call__

    def set_response_callback(self, *_):
        pass

    async def aclose(self):
        pass


@pytest.mark.parametrize("place", [redis, redis.asyncio])
def test_a_cluster_gets_the_clients_of_a_cluster(monkeypatch, place):
    """With our timeouts, without redis-py's repetitions, and with every node to begin with."""
    recorder = Recorder()
    monkeypatch.setattr(place, "RedisCluster", recorder)
    connections = Connections(parse_url("redis+cluster://u:p@one:7000,two:7001"))
    assert connections.clustered
    clients = [connections.beats()] if place is redis else [connections.commands]
    assert clients == [recorder]
    assert {args for args, _ in recorder.made} == {("redis://u:p@one:7000",)}
    check_options(recorder.made, place)
    for _, options in recorder.made:
        assert [(node.host, node.port) for node in options["startup_nodes"]] == [("one", 7000), ("two", 7001)]
        assert options["require_full_coverage"] is False


@pytest.mark.parametrize("place", ["beats", "commands"])
async def test_sentinels_are_asked_for_the_master(place):
    """With the master's credentials for the master, and none for the sentinels, which get little time to answer."""
    connections = Connections(parse_url("redis+sentinel://u:p@one:1,two:2/mymaster/3"), block=2.0)
    try:
        client = connections.beats() if place == "beats" else connections.commands
    finally:
        await connections.aclose()
    assert client.connection_pool.service_name == "mymaster"
    made = client.connection_pool.connection_kwargs
    assert {"db": 3, "username": "u", "password": "p"}.items() <= made.items()
    check_options([((), made)], redis if place == "beats" else redis.asyncio)
    asked = [sentinel.connection_pool.connection_kwargs for sentinel in connections._watch._sentinels]
    assert [(options["host"], options["port"]) for options in asked] == [("one", 1), ("two", 2)]
    assert all(options["socket_timeout"] < 1 and not options.get("password") for options in asked)
    assert all(options["retry"].get_retries() == 0 for options in asked)


def check_options(made, place):
    for _, options in made:
        assert options["retry"].get_retries() == 0
        assert options["socket_timeout"] in ({1.0} if place is redis else {5.0})
        assert options["socket_connect_timeout"] in ({1.0} if place is redis else {5.0})
