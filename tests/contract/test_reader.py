"""The blocking side: what a read brings, how it is woken, and that nothing is stranded."""

import asyncio
import contextlib
import time

import pytest

from streamq.core.errors import RedisUnavailable
from streamq.store.connection import connected
from streamq.store.outages import GroupMissing
from streamq.store.reader import EMPTY_PAUSE, QueueReader
from streamq.store.url import parse_url
from streamq.testing.server import PrivateServer
from tests.contract.desk import GROUP, QUEUE, Desk, draft
from tests.support import server_binary, wait_until


@pytest.fixture
def reader(desk):
    return QueueReader(desk.connections, QUEUE, desk.keys, GROUP, "w1")


@contextlib.asynccontextmanager
async def waiting(desk, reader, block=20):
    """A wait that has begun: the server counts a blocked client."""
    task = asyncio.create_task(reader.wait(block))
    while not is_blocked(desk):
        assert not task.done()
        await asyncio.sleep(0)
    yield task


def is_blocked(desk):
    return b"blocked_clients:1" in desk.raw("INFO", "clients")


async def test_a_pass_takes_what_is_ready_on_one_level(desk, reader):
    """At most as many as asked for, in their order, each delivered once; the rest stays."""
    await desk.publish(draft("a"), draft("b", deliveries=2), draft("c"), draft("d", "high"))
    found = await reader.fetch("normal", 2)
    assert [(d.queue, d.level, d.message_id, d.token, d.losses, d.doubled) for d in found] == [
        (QUEUE, "normal", "a", 1, 0, False),
        (QUEUE, "normal", "b", 1, 2, False),
    ]
    assert desk.state()["pending"] == {d.key: ("w1", 1) for d in found}
    assert [d.message_id for d in await reader.fetch("normal", 2)] == ["c"]
    assert await reader.fetch("normal", 2) == []
    assert await reader.fetch("low", 2) == []


async def test_a_field_that_is_given_twice_is_seen(desk, reader):
    """The stock parser would keep the last one."""
    desk.add(entry=[b"payload", b"{}", b"payload", b"[]"])
    (delivery,) = await reader.fetch("normal", 1)
    assert delivery.doubled


async def test_one_that_is_closed_for_good_has_no_connection(desk, reader):
    def count():
        return len(desk.raw("CLIENT", "LIST").splitlines())

    others = count()
    assert await reader.fetch("normal", 1) == []
    assert count() == others + 1
    await reader.aclose()
    await asyncio.to_thread(wait_until, lambda: count() == others)  # the server hears of it soon


async def test_the_doorbell_takes_one_of_each_level(desk, reader):
    """COUNT is per stream: no more than one each, so that a blocked read hoards nothing."""
    await desk.publish(*(draft(f"{level}{n}", level) for level in ("critical", "low") for n in range(3)))
    found = await reader.wait(0.2)
    assert [d.message_id for d in found] == ["critical0", "low0"]


async def test_the_doorbell_rings_when_something_arrives(desk, reader):
    async with waiting(desk, reader) as task:
        await desk.publish(draft("a", "low"))
        assert [d.message_id for d in await task] == ["a"]


async def test_waking_a_wait_strands_nothing(desk, reader):
    """It returns at once with nothing, and what comes afterwards is read by the next."""
    async with waiting(desk, reader) as task:
        await reader.wake()
        assert await task == []
    await desk.publish(draft("a"))
    assert desk.state()["pending"] == {}
    assert [d.message_id for d in await reader.wait(0.2)] == ["a"]


async def test_what_arrives_while_a_wait_is_woken_is_not_lost(desk, reader):
    """Whoever wins the race: it is in the hands of the reader or undelivered, never in between."""
    for n in range(30):
        async with waiting(desk, reader) as task:
            words, _ = await asyncio.gather(desk.publish(draft(f"m{n}")), reader.wake())
            assert words == ["OK"]
            found = await task
            held = [d.message_id for d in found] or [d.message_id for d in await reader.fetch("normal", 9)]
        assert held == [f"m{n}"]


async def test_waking_nobody_is_harmless(desk, reader):
    """Before the first wait there is nothing to wake; after it the connection is idle."""
    await reader.wake()
    await reader.wait(0.01)
    await reader.wake()
    await desk.publish(draft("a"))
    assert len(await reader.wait(0.01)) == 1


async def test_an_empty_wait_takes_its_time(desk, reader):
    """A server that should have blocked and did not must not make the loop spin."""
    started = time.monotonic()
    assert await reader.wait(0.1) == []
    assert time.monotonic() - started >= EMPTY_PAUSE * 0.9
    started = time.monotonic()
    await reader.wait(0.002)
    assert time.monotonic() - started < 1


async def test_a_group_that_is_gone_is_told(desk, reader):
    desk.raw("XGROUP", "DESTROY", desk.keys.low, GROUP)
    with pytest.raises(GroupMissing):
        await reader.fetch("low", 1)
    with pytest.raises(GroupMissing):
        await reader.wait(1)
    await desk.store.ensure()
    assert await reader.fetch("low", 1) == []


@pytest.mark.parametrize("how", ["DEL", "DESTROY", "RENAME", "FLUSHALL"])
async def test_a_group_that_goes_while_a_wait_is_on_ends_it(desk, reader, how):
    """Whatever took it away; after `ensure` the reader goes on. Where the server says nothing, BLOCK ends it."""
    commands = {
        "DEL": ("DEL", desk.keys.low),
        "DESTROY": ("XGROUP", "DESTROY", desk.keys.low, GROUP),
        "RENAME": ("RENAME", desk.keys.low, "elsewhere"),
        "FLUSHALL": ("FLUSHALL",),
    }
    async with waiting(desk, reader) as task:
        desk.raw(*commands[how])
        with pytest.raises(GroupMissing):
            await task
    await desk.store.ensure()
    await desk.publish(draft("a", "low"))
    assert [d.message_id for d in await reader.wait(1)] == ["a"]


async def test_a_reader_goes_on_after_its_connection_was_cut(desk, reader):
    """The cut ends the wait with an outage; after `reset` the next wait has a connection that can be woken."""
    async with waiting(desk, reader) as task:
        desk.raw("CLIENT", "KILL", "ID", reader._client_id)
        with pytest.raises(RedisUnavailable):
            await task
    await reader.reset()
    async with waiting(desk, reader) as task:
        await reader.wake()
        assert await task == []


async def test_a_reader_survives_a_server_that_dies(server_of_its_own):
    """No outage of reset or wake is told: they are asked while things are broken already."""
    async with connected(parse_url(server_of_its_own.url)) as connections:
        desk = Desk(connections, None)
        await desk.store.ensure()
        reader = QueueReader(connections, QUEUE, desk.keys, GROUP, "w1")
        assert await reader.wait(0.01) == []
        await asyncio.to_thread(server_of_its_own.kill)
        await reader.wake()
        await reader.reset()
        with pytest.raises(RedisUnavailable):
            await reader.wait(0.01)
        await asyncio.to_thread(server_of_its_own.start)
        await desk.store.ensure()
        assert await reader.wait(0.01) == []


@pytest.fixture
def server_of_its_own():
    with PrivateServer(server_binary("valkey-9.1")) as server:
        yield server
