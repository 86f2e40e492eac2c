"""A Redis that answers, and refuses: it cannot save, misses its replicas, still loads, or has forgotten the scripts."""

import asyncio
import contextlib

import pytest
import redis

from streamq.core.events import RedisUnavailable, Settled
from streamq.testing.server import PrivateServer
from tests.faults.house import KEEPS_ALL, QUEUE, eventually, house_on, serving
from tests.faults.recording import handle_all, offer
from tests.support import SERVERS, server_binary, wait_until

pytestmark = pytest.mark.faults


@contextlib.contextmanager
def failing_saves(house):
    """Snapshots fail, and Redis stops to take writes."""
    in_the_way = house.server.directory / "dump.rdb"
    in_the_way.mkdir()

    def saves(how):
        with contextlib.suppress(redis.ResponseError):  # one is going on
            house.raw("BGSAVE")
        return f"rdb_last_bgsave_status:{how}" in house.raw("INFO", "persistence").decode()

    with house.setting(save="3600 1000000"):
        wait_until(lambda: saves("err"))
        try:
            yield
        finally:
            in_the_way.rmdir()
            wait_until(lambda: saves("ok"))


@contextlib.contextmanager
def no_replicas(house):
    """Redis takes writes only with a replica, and there is none."""
    with house.setting(min_replicas_to_write=1):
        yield


REFUSALS = {"m06": (failing_saves, "MISCONF"), "m07": (no_replicas, "NOREPLICAS")}


async def ride_out(house, refuses, word):
    """One message is running and one is to retry when Redis begins to refuse; one is published meanwhile."""
    app, go, ran = house.app(), asyncio.Event(), []
    handle_all(app, ran)

    @app.handler(QUEUE)
    async def waits(key: str):
        ran.append(key)
        await go.wait()

    @app.handler(QUEUE, max_retries=0)
    async def waits_and_fails(key: str):
        await waits(key)
        raise RuntimeError("boom")

    async with app, serving(app) as worker:
        await app.publish_many(QUEUE, [*offer("waits", "done"), *offer("waits_and_fails", "dead")])
        await eventually(lambda: len(ran) == 2)
        with refuses(house):
            with pytest.raises(redis.ResponseError, match=word):
                house.raw("XADD", "elsewhere", "*", "f", "v")
            go.set()
            publishing = asyncio.ensure_future(app.publish(QUEUE, {"type": "good", "key": "meanwhile"}))
            for role in ("fetch", "settle", "beat"):
                told = await worker.events.until(RedisUnavailable, role=role)
                assert word in told.error
            assert len(house.books.pending()) == 2
            assert not publishing.done()
        assert not (await publishing).duplicate
        await worker.events.until(Settled, 3)
        assert not worker.task.done()
        for role in ("fetch", "settle", "beat"):  # once a role, however often it tried
            await worker.events.until(RedisUnavailable, role=role, back=True)
    assert sorted(ran) == ["dead", "done", "meanwhile"]
    assert len(worker.events.of(RedisUnavailable, role="fetch", back=False)) == 1
    assert house.books.is_empty()
    ledger = house.books.ledger()
    assert (ledger["accepted"], ledger["done"], ledger["dead"]) == (3, 2, 1)


async def test_m06_a_redis_that_cannot_save_is_waited_for(own_house):
    """While snapshots fail Redis refuses every write (MISCONF): outcomes are kept and repeated, publishing waits, and
    when it saves again everything is as it should be."""
    await ride_out(own_house, failing_saves, "MISCONF")


async def test_m07_a_redis_without_its_replicas_is_waited_for(house):
    """While replicas are missing Redis refuses every write (NOREPLICAS): outcomes are kept and repeated, publishing
    waits, and then everything is as it should be."""
    await ride_out(house, no_replicas, "NOREPLICAS")


SLOW_LOADING = (*KEEPS_ALL, "--key-load-delay", "50")  # microseconds for each command of the append-only file


@pytest.mark.slow
@pytest.mark.parametrize("kind", SERVERS)
async def test_m08_a_redis_that_still_loads_is_waited_for(kind):
    """Killed with a big append-only file it answers LOADING for seconds: a worker that lives and one that only starts
    wait for it, a publish goes through, and nothing is lost."""
    with PrivateServer(server_binary(kind), args=SLOW_LOADING) as server:
        async with house_on(server) as house:
            await reload_under_work(house)


async def reload_under_work(house):
    ballast = "for n = 1, ARGV[1] do redis.call('SET', 'ballast:' .. n, n) end"
    for _ in range(10):
        house.raw("EVAL", ballast, 0, 2000)
    app, ran, held = house.app(), [], []
    handle_all(app, ran, held=held)
    async with app:
        await app.publish_many(QUEUE, offer("good", *map(str, range(100))))
        async with serving(app, drain_timeout=0.05) as worker:
            await worker.events.until(Settled, 1)
            await asyncio.to_thread(house.server.kill)
            starting = asyncio.ensure_future(asyncio.to_thread(house.server.start))
            await eventually(lambda: _says_loading(house))
            publishing = asyncio.ensure_future(app.publish(QUEUE, {"type": "good", "key": "meanwhile"}))
            other = house.app()
            handle_all(other, ran, held=held)
            async with serving(other) as late:
                assert not late.events.of(RedisUnavailable)  # it reads: Redis had loaded by then
                await starting
                await publishing
                await eventually(lambda: len(set(ran)) == 101)
                await eventually(house.books.is_empty)
        assert worker.cut_short == 0
    assert house.books.ledger()["done"] == 101


def _says_loading(house):
    try:
        with redis.Redis.from_url(house.server.url, retry=None) as client:
            client.ping()
    except redis.BusyLoadingError:
        return True
    except redis.ConnectionError:
        return False
    raise AssertionError("it had loaded before anybody looked")


async def test_m09_scripts_that_redis_forgets_are_sent_again(house):
    """SCRIPT FLUSH in the middle of the work, over and over: no operation fails and no message runs twice."""
    app, ran = house.app(), []
    handle_all(app, ran)
    async with app, serving(app) as worker:
        for number in range(30):
            await app.publish_many(QUEUE, [*offer("good", *(f"{number}-{n}" for n in range(10)))])
            await app.publish(QUEUE, {"type": "retries", "key": f"r{number}"})
            await app.publish(QUEUE, {"type": "rejects", "key": f"d{number}"})
            house.raw("SCRIPT", "FLUSH", "SYNC")
        await worker.events.until(Settled, 30 * 13)
        assert worker.events.of(RedisUnavailable) == []
    assert len(ran) == len(set(ran)) == 330
    assert (house.books.ledger()["done"], house.books.ledger()["dead"]) == (330, 30)


async def test_m09_scripts_survive_a_restart(own_house):
    """A server that was restarted knows no script: a worker and a publisher that were there before go on."""
    house = own_house
    app, ran = house.app(), []
    handle_all(app, ran)
    async with app, serving(app) as worker:
        await app.publish(QUEUE, {"type": "good", "key": "before"})
        await worker.events.until(Settled)
        await asyncio.to_thread(house.server.restart)
        await app.publish(QUEUE, {"type": "retries", "key": "after"})
        await worker.events.until(Settled, 3)
    assert ran == ["before", "after"]
    assert house.books.ledger() == {"accepted": 2, "done": 2, "promoted": 1, "retried": 1}
