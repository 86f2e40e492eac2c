"""Faults of the network and of the client: lost replies, dead connections, a pool that runs dry, reconnect storms."""

import asyncio
import time

import pytest

from streamq import PublishUnknown
from streamq.core.events import Reclaimed, RedisUnavailable, Settled
from tests.faults.house import QUEUE, eventually, serving, until
from tests.faults.network import MARK, blocked, connections_made, done, network, reads

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("times", [1, 3])
async def test_c01_a_reply_that_is_lost_leaves_one_entry(house, times):
    """However often the reply to a publish is lost, there is one entry and one receipt."""
    with network(house) as proxy:
        async with house.app(url=proxy.url) as app:
            await app.publish(QUEUE, {"type": "first"})  # by now the server knows the script
            proxy.cut_replies(times, to=MARK.encode())
            receipt = await app.publish(QUEUE, {"type": "work", "mark": MARK})
    assert proxy.happened["cut"] == times
    assert not receipt.duplicate
    assert house.books.ready()[1:] == [receipt.id]
    assert house.books.ledger() == {"accepted": 2}


async def test_c02_an_idle_queue_does_not_reconnect(house):
    """A reader that waits in vain, again and again, keeps its connection."""
    app = house.app(limits={"block": 0.2})

    @app.handler(QUEUE)
    async def work(): ...

    async with serving(app):
        await eventually(lambda: reads(house) > 5)
        before, seen = connections_made(house), reads(house)
        await eventually(lambda: reads(house) > seen + 40)  # ten times the four levels
        assert connections_made(house) == before


@pytest.mark.slow
@pytest.mark.parametrize("server", ["valkey-9.1"], indirect=True)
async def test_c02_a_wait_may_be_longer_than_the_clients_own_patience(house):
    """redis-py gives up a read after 5 s by itself; ours waits for BLOCK + 2 s."""
    app = house.app(limits={"block": 5.5})

    @app.handler(QUEUE)
    async def work(): ...

    async with serving(app) as worker:
        await eventually(lambda: blocked(house))
        before, began = connections_made(house), time.monotonic()
        await eventually(lambda: time.monotonic() > began + 6.5)
        assert connections_made(house) == before
        assert worker.events.of(RedisUnavailable) == []


async def test_c03_a_half_open_connection_is_given_up_and_its_message_found(house):
    """The reader's connection dies without a word: reading goes on within BLOCK + 2 s, and what Redis handed to the
    dead connection runs when its lease is over."""
    ran = {}
    with network(house, match=b"XREADGROUP") as proxy:
        app = house.app(url=proxy.url, lease=1.0, limits={"block": 2.0})

        @app.handler(QUEUE)
        async def work(number: int):
            ran[number] = time.monotonic()

        async with house.app() as publisher, serving(app) as worker:
            await publisher.publish(QUEUE, {"type": "work", "number": 0})
            await worker.events.until(Settled)
            await eventually(lambda: any(b" idle=0 " in reader for reader in blocked(house)))  # it has just begun
            proxy.go_silent()
            proxy.match = b"nothing that anybody sends"  # new connections are well
            silent_since = time.monotonic()
            await publisher.publish(QUEUE, {"type": "work", "number": 1})
            assert house.books.ready() == []  # the server has found a reader for it
            await publisher.publish(QUEUE, {"type": "work", "number": 2})
            await done(house, 3)
    assert sorted(ran) == [0, 1, 2]
    assert ran[2] - silent_since < 2 + 2 + 2  # BLOCK, the margin, and the pause before another try
    assert (proxy.happened["swallowed"], house.books.ledger()["done"]) == (1, 3)
    assert worker.events.of(Reclaimed, taken=1)


async def test_c06_a_cancelled_publish_may_be_repeated_with_its_id(house):
    """Cancelling a publish takes nothing back, and publishing once more with the same id adds nothing."""
    with network(house) as proxy:
        async with house.app(url=proxy.url) as app:
            await app.publish(QUEUE, {"type": "first"})
            proxy.delay = 0.3
            publishing = asyncio.ensure_future(app.publish(QUEUE, {"type": "work"}, message_id="order-1"))
            await eventually(lambda: "order-1" in house.books.ready())
            publishing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await publishing
            proxy.heal()
            again = await app.publish(QUEUE, {"type": "work"}, message_id="order-1")
    assert again.duplicate
    assert house.books.ready()[1:] == ["order-1"]


async def test_c06_a_publish_that_nobody_answered_says_its_id(house):
    """Who gives up raises PublishUnknown with the id, so that a repetition is safe."""
    with network(house) as proxy:
        async with house.app(url=proxy.url, limits={"seen_window": 4.0}) as app:
            await app.publish(QUEUE, {"type": "first"})
            proxy.cut_replies(1000, to=MARK.encode())
            with pytest.raises(PublishUnknown) as unknown:
                await app.publish(QUEUE, {"type": "work", "mark": MARK})
            proxy.heal()
            again = await app.publish(QUEUE, {"type": "work", "mark": MARK}, message_id=unknown.value.id)
    assert again.duplicate
    assert house.books.ready()[1:] == [unknown.value.id]


async def test_c07_readers_that_wait_do_not_keep_outcomes_waiting(house):
    """Sixty readers block on sixty queues; outcomes have connections of their own."""
    queues = [f"q{number}" for number in range(60)]
    app, took = house.app(lease=30.0, limits={"block": 20.0}), []

    @app.handler(queues)
    async def work(): ...

    async with serving(app) as worker:
        await eventually(lambda: len(blocked(house)) == len(queues))
        for number in (1, 2, 3):
            began = time.monotonic()
            await asyncio.gather(*(app.publish(queue, {"type": "work"}) for queue in queues))
            await asyncio.gather(*(done(house, number, queue) for queue in queues))
            took.append(time.monotonic() - began)
        # A beat has a connection of its own, and a second to be answered, which a busy machine may miss.
        assert [outage for outage in worker.events.of(RedisUnavailable) if outage.role != "beat"] == []
    assert min(took) < 10  # a reader would keep its connection for 20 s
    assert all(house.books.of(queue).ledger()["done"] == 3 for queue in queues)


async def test_c08_connections_that_are_killed_again_and_again_come_back(house):
    """Each queue is read again, not merely connected to, and health says so of each."""
    queues, ran = ["orders", "mails"], []
    app = house.app(limits={"block": 0.2})

    @app.handler(queues)
    async def work(number: int):
        ran.append(number)

    async with serving(app) as worker:
        for number in range(12):
            house.raw("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await asyncio.gather(*(app.publish(queue, {"type": "work", "number": number}) for queue in queues))
        await until(lambda: set(ran) == set(range(12)) and worker.worker.health.ready().ok)
        killed = time.monotonic()
        await until(lambda: all(lane.last_poll > killed for lane in worker.worker.lanes))
        await eventually(house.books.is_empty)
    assert worker.events.of(RedisUnavailable, back=True)
    assert {queue: house.books.of(queue).ledger()["done"] for queue in queues} == dict.fromkeys(queues, 12)


async def test_c08_a_server_that_is_restarted_eight_times_is_read_again(own_house):
    """Every queue is read again, and what was published after each restart runs."""
    queues = ["orders", "mails"]
    app = own_house.app(limits={"block": 0.2})

    @app.handler(queues)
    async def work(): ...

    async with serving(app) as worker:
        for _ in range(8):
            await asyncio.to_thread(own_house.server.restart)
            await asyncio.gather(*(app.publish(queue, {"type": "work"}) for queue in queues))
        back = time.monotonic()
        await until(lambda: all(lane.last_poll > back for lane in worker.worker.lanes))
        await asyncio.gather(*(done(own_house, 8, queue) for queue in queues))
        assert worker.worker.health.ready().ok
    assert {queue: own_house.books.of(queue).ledger()["done"] for queue in queues} == dict.fromkeys(queues, 8)
