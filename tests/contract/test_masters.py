"""Sentinel: the master is asked for in a thread, and whoever is connected to another one leaves it."""

import asyncio
import threading

import pytest

from streamq.core.errors import RedisUnavailable
from streamq.store import masters
from streamq.store.beats import BeatConnection
from streamq.store.connection import connected
from streamq.store.keys import Keyspace
from streamq.store.masters import MasterWatch
from streamq.store.scripts import script
from streamq.store.topology import ask_each_sentinel, connected_master
from streamq.store.url import parse_url
from tests.servers.sentinel import SERVICE, PrivateSentinel
from tests.support import wait_until


@pytest.fixture(scope="module")
def sentinel():
    """A master with a replica, watched; nothing is killed."""
    with PrivateSentinel() as sentinel:
        yield sentinel


def hosts(sentinel):
    return [("127.0.0.1", port) for port in sentinel.sentinel_ports]


def watches():
    return sum(thread.name == "streamq-sentinel" for thread in threading.enumerate())


async def nobody():
    pass


class Told:
    """Stands for a sentinel, and says what it was made to say."""

    def __init__(self, port, epoch, **more):
        state = {"ip": "127.0.0.1", "port": port, "config-epoch": epoch, "is_master": True, "is_sdown": False}
        self._state = {**state, "is_odown": False, **more}

    def sentinel_masters(self):
        return {SERVICE: self._state}

    def close(self):
        pass


def asked(*told):
    watch = MasterWatch([], SERVICE, nobody)
    watch._sentinels = told
    return watch.ask()


def test_the_sentinel_that_saw_the_latest_failover_is_believed():
    assert asked(Told(1, 5), Told(2, 7), Told(3, 6)) == ("127.0.0.1", 2)


def test_a_master_that_seems_dead_is_none():
    assert asked(Told(1, 5, is_sdown=True), Told(1, 5, is_odown=True), Told(1, 5, is_master=False)) is None
    assert MasterWatch([], SERVICE, nobody).ask() is None


async def test_a_sentinel_that_is_away_is_passed_over(sentinel):
    watch = MasterWatch([("127.0.0.1", 1), *hosts(sentinel)], SERVICE, nobody)
    assert await asyncio.to_thread(watch.ask) == ("127.0.0.1", sentinel.master())
    assert await asyncio.to_thread(MasterWatch(hosts(sentinel), "another", nobody).ask) is None


async def test_there_is_one_thread_while_connections_are_open(sentinel, monkeypatch):
    monkeypatch.setattr(masters, "ASK_EVERY", 0.02)
    async with connected(parse_url(sentinel.url)) as connections:
        assert watches() == 0
        await connections.execute("PING")
        await connections.reader("k").send("PING")
        assert watches() == 1
        await asyncio.to_thread(wait_until, lambda: connections._watch.master is not None)
        assert not connections.is_stale(connections.commands)
    assert watches() == 0


def test_a_loop_that_was_closed_without_a_word_ends_the_thread(sentinel, monkeypatch):
    monkeypatch.setattr(masters, "ASK_EVERY", 0.02)
    told = threading.Event()

    async def follow():
        told.set()

    watch = MasterWatch(hosts(sentinel), SERVICE, follow)

    async def main():
        watch.start()
        watch.start()
        await asyncio.to_thread(told.wait, 10)

    asyncio.run(main())
    wait_until(lambda: watches() == 0)


def test_nobody_is_told_on_a_loop_that_is_closed():
    loop = asyncio.new_event_loop()
    loop.close()
    MasterWatch([], SERVICE, nobody)._tell(loop)


async def test_a_loop_that_is_busy_is_told_once(sentinel, monkeypatch):
    """Calls would heap up while it is blocked."""
    calls, called, gate = [], asyncio.Event(), asyncio.Event()

    async def follow():
        calls.append(1)
        called.set()
        await gate.wait()

    watch = MasterWatch(hosts(sentinel), SERVICE, follow)
    loop = asyncio.get_running_loop()
    watch._tell(loop)
    watch._tell(loop)
    await called.wait()
    gate.set()
    await asyncio.wrap_future(watch._following)
    assert calls == [1]


async def test_connections_to_a_master_that_was_replaced_are_dropped(sentinel):
    """Idle ones before their next command, and those that wait for a reply at once."""
    async with connected(parse_url(sentinel.url)) as connections:
        reader = connections.reader("k")
        await reader.open()
        waiting = asyncio.ensure_future(reader.send("BLPOP", "nothing", 2))
        before = await connections.execute("CLIENT", "ID")
        await asyncio.to_thread(wait_until, lambda: connections._watch.master is not None)
        await asyncio.to_thread(connections._watch.stop)
        connections._watch.master = ("127.0.0.1", 1)
        assert connections.is_stale(connections.commands)
        await connections._follow()
        with pytest.raises(Exception, match="losed"):
            await waiting
        assert await connections.execute("CLIENT", "ID") != before


async def test_a_batch_does_not_go_to_a_master_that_was_replaced(sentinel):
    """It would confirm what the replaced master is going to forget."""
    async with connected(parse_url(sentinel.url)) as connections:
        (before,) = await connections.together("k", ("CLIENT", "ID"))
        assert await connections.together("k", ("CLIENT", "ID")) == [before]
        await asyncio.to_thread(connections._watch.stop)
        connections._watch.master = ("127.0.0.1", 1)
        (after,) = await connections.together("k", ("CLIENT", "ID"))
        assert after != before


async def test_a_beat_does_not_go_to_a_master_that_was_replaced(sentinel):
    """Though it would answer there."""
    async with connected(parse_url(sentinel.url)) as connections:
        keys = Keyspace().queue("orders")
        beats = BeatConnection(connections)

        def beat():
            beats.extend(keys, "workers", "us", lease_ms=30_000, silent_after_ms=12_000, deliveries=[])
            return beats._client

        first = await asyncio.to_thread(beat)
        assert await asyncio.to_thread(beat) is first
        connections._watch.master = ("127.0.0.1", 1)
        await connections._follow()  # nobody else is connected yet
        assert await asyncio.to_thread(beat) is not first
        beats.close()


async def test_a_demoted_server_is_left_without_sentinels(sentinel):
    """By its name, which may lead to another by now. The next command makes a connection."""
    replica = next(port for port in sentinel.ports if port != sentinel.master())
    async with connected(parse_url(f"redis://127.0.0.1:{replica}")) as connections:
        before = await connections.execute("CLIENT", "ID")
        with pytest.raises(RedisUnavailable, match="ReadOnly"):
            await connections.execute("SADD", "s", "a")
        assert await connections.execute("CLIENT", "ID") != before


async def test_a_script_leaves_a_demoted_server_too(sentinel):
    replica = next(port for port in sentinel.ports if port != sentinel.master())
    async with connected(parse_url(f"redis://127.0.0.1:{replica}")) as connections:
        wire = await (await connections._line_to("k")).open()
        with pytest.raises(RedisUnavailable, match="ReadOnly"):
            await connections.run(script("register"), ["names"], ["orders"])
        assert wire.closed
        assert await (await connections._line_to("k")).open() is not wire


async def test_each_sentinel_tells_what_it_sees(sentinel):
    url = sentinel.url.replace("127.0.0.1:", "127.0.0.1:1,127.0.0.1:", 1)
    async with connected(parse_url(url)) as connections:
        away, *views = await ask_each_sentinel(connections)
        master = f"127.0.0.1:{sentinel.master()}"
        (replica,) = (port for port in sentinel.ports if port != sentinel.master())
        assert (away.address, away.master) == ("127.0.0.1:1", "")
        assert {view.master for view in views} == {master} == {await connected_master(connections)}
        assert all((view.quorum, view.others, view.replicas) == (2, 2, {f"127.0.0.1:{replica}": ""}) for view in views)
    async with connected(parse_url(sentinel.url.replace(f"/{SERVICE}/", "/another/"))) as strangers:
        assert [view.master for view in await ask_each_sentinel(strangers)] == ["", "", ""]


async def test_who_connects_anew_believes_the_latest_failover_too(sentinel, monkeypatch):
    """And not the first sentinel that answers: it may have been cut off together with the master that was replaced."""
    async with connected(parse_url(sentinel.url)) as connections:
        monkeypatch.setattr(connections._watch, "_sentinels", [Told(1, 5), Told(sentinel.master(), 7)])
        assert await connections.execute("PING")
        assert await asyncio.to_thread(connections.beats().ping)


async def test_without_a_known_master_the_error_says_so(sentinel, monkeypatch):
    async with connected(parse_url(sentinel.url)) as connections:
        monkeypatch.setattr(connections._watch, "_sentinels", [Told(1, 5, is_sdown=True)])
        with pytest.raises(RedisUnavailable, match=f"no sentinel .* living master called '{SERVICE}'"):
            await connections.execute("PING")
