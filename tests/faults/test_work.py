"""Faults of work: crashes between two steps, workers that lost their lease, doubles, prefetch, and who counts what."""

import asyncio
import time
from collections import Counter

import pytest

from streamq import Context, Reject
from streamq.core.events import Settled
from streamq.core.outcome import Retry
from tests.e2e.rig import Publishing
from tests.faults.house import GROUP, QUEUE, eventually, serving, turns, until
from tests.faults.network import call_of, dies_with, done, network
from tests.support import wait_until

pytestmark = pytest.mark.faults


@pytest.mark.slow
@pytest.mark.e2e
def test_w02_kill_9_around_a_retry_loses_nothing(rig):
    """Workers that settle all the time, mostly retries, are killed twice: a message is here or there, never
    nowhere and never in two places."""
    rig.configure(
        {"lease": "2s", "retry_delay": "50ms", "max_length": 0}, worker={"silent_after": "2s", "beat_interval": "500ms"}
    )
    keys = [f"m{number}" for number in range(160)]
    workers = [rig.worker("--concurrency", "8") for _ in range(3)]
    publishing = Publishing(rig, "fail_times", keys, at_once=4, payload={"times": 2})
    for kill in (1, 2):
        wait_until(lambda kill=kill: len(rig.keys_of("S")) > 120 * kill, 20)
        workers.pop().kill()
        moment = rig.moment()
        assert (moment.imbalance, moment.body_imbalance) == (0, 0)
    publishing.join(30)
    rig.finished(*keys, seconds=40)
    rig.empty()
    assert publishing.errors == []
    assert len(rig.keys_of("F")) - len(keys) <= 2 * 8
    assert (rig.ledger()["done"], rig.dead()) == (len(keys), [])


async def test_w03_a_failure_after_the_lease_was_lost_is_discarded(house):
    """Another worker took the message over: what this one says about its failure leaves no second copy."""
    app, go = house.app(lease=30.0), asyncio.Event()

    @app.handler(QUEUE)
    async def work():
        await go.wait()
        raise ConnectionError

    async with serving(app, drain_timeout=0) as worker:
        receipt = await app.publish(QUEUE, {"type": "work"})
        await eventually(house.books.pending)
        ((entry, *_),) = house.raw("XPENDING", house.books.keys.stream("normal"), GROUP, "-", "+", 1)
        house.raw("XCLAIM", house.books.keys.stream("normal"), GROUP, "other", 0, entry)
        go.set()
        told = await worker.events.until(Settled)
    assert (type(told.outcome), told.applied) == (Retry, False)
    assert house.books.pending() == {receipt.id: ("other", 2)}
    assert house.books.delayed() == {}
    assert house.books.ledger() == {"accepted": 1, "fenced": 1}


@pytest.mark.slow
@pytest.mark.e2e
def test_w04_kill_9_of_whoever_takes_over_stops_nothing(rig):
    """There is no lock that a dead worker could keep: the next one takes over what both held."""
    rig.configure({"lease": "1s", "retry_delay": "50ms"})
    third = rig.worker("--concurrency", "1")
    rig.publish("gated", "c")
    rig.started("c")  # it beats and has no slot
    first = rig.worker("--concurrency", "2")
    rig.publish("gated", "a", "b")
    rig.started("a", "b")
    second = rig.worker("--concurrency", "2")
    first.kill()
    wait_until(lambda: Counter(rig.keys_of("S")) == {"a": 2, "b": 2, "c": 1}, 15)
    second.kill()
    rig.open()
    rig.finished("a", "b", "c", seconds=25)
    rig.empty()
    assert third.code is None
    assert rig.dead() == []


async def test_w06_a_lost_worker_is_no_attempt(house):
    """With max_retries=0 a message survives the loss of its worker; its own failure is what ends it."""
    app, attempts = house.app(max_retries=0), []

    @app.handler(QUEUE)
    async def work(fails: bool, ctx: Context):
        attempts.append((ctx.attempt, ctx.message.deliveries))
        if fails:
            raise ConnectionError

    async with app:
        async with serving(app):
            pass  # it makes the group
        await app.publish_many(QUEUE, [{"type": "work", "fails": fails} for fails in (False, True)])
        dies_with(house, "dead", 2, ms_ago=60_000)
        async with serving(app):
            await eventually(house.books.is_empty)
    assert attempts == [(1, 1), (1, 1)]
    (letter,) = house.books.letters()
    assert (letter["reason"], letter["retry_count"], letter["deliveries"]) == ("max_retries", "0", "1")


async def test_w07_dead_letters_are_never_trimmed(house):
    """Twelve hundred of them, all still there: only who asks for it purges them."""
    app = house.app()

    @app.handler(QUEUE)
    async def work():
        raise Reject("no")

    async with serving(app, concurrency=100):
        receipts = await app.publish_many(QUEUE, [{"type": "work"}] * 1200)
        await eventually(house.books.is_empty)
        letters = house.books.letters()
        assert {letter["original_id"] for letter in letters} == {receipt.id for receipt in receipts}
        assert len(letters) == 1200


async def test_w08_one_bad_item_of_a_delayed_batch_stops_nothing(house):
    """Each item is moved alone: the unreadable one becomes a dead letter, every other one runs once."""
    app, ran = house.app(), []

    @app.handler(QUEUE)
    async def work(number: int):
        ran.append(number)

    async with app:
        receipts = await app.publish_many(QUEUE, [{"type": "work", "number": n} for n in range(10)], delay=0.3)
        house.raw("HSET", house.books.keys.messages, receipts[4].id, "no netstring")
        async with serving(app):
            await done(house, 9)
    assert house.books.is_empty()
    assert sorted(ran) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    (letter,) = house.books.letters()
    assert (letter["original_id"], letter["reason"]) == (receipts[4].id, "malformed")


async def test_w11_an_acknowledgement_whose_reply_is_lost_runs_nothing_again(house):
    """It is sent until its result is known."""
    ran = []
    with network(house) as proxy:
        app = house.app(url=proxy.url)

        @app.handler(QUEUE)
        async def work():
            ran.append(time.monotonic())

        async with serving(app) as worker:
            await app.publish(QUEUE, {"type": "work"})
            await done(house, 1)
            proxy.cut_replies(2, to=call_of("ack"))
            await app.publish(QUEUE, {"type": "work"})
            await eventually(lambda: proxy.happened["cut"] == 2)
            await until(lambda: worker.running() == 0)
    assert (len(ran), house.books.ledger()["done"]) == (2, 2)


async def test_w11_an_acknowledgement_that_a_failover_forgot_runs_the_message_once_more(house):
    """The promoted replica had not heard of it. At least once: at most as many doubles as there were slots."""
    app, ran, go = house.app(lease=1.0), [], asyncio.Event()

    @app.handler(QUEUE)
    async def work(number: int):
        ran.append(number)
        await go.wait()

    async with serving(app, concurrency=3):
        await app.publish_many(QUEUE, [{"type": "work", "number": number} for number in range(3)])
        await until(lambda: len(ran) == 3)
        keys = (house.books.keys.stream("normal"), house.books.keys.ledger)
        replica = {key: house.raw("DUMP", key) for key in keys}
        go.set()
        await done(house, 3)
        for key, value in replica.items():
            house.raw("RESTORE", key, 0, value, "REPLACE")
        assert len(house.books.pending()) == 3
        await done(house, 3)
    assert sorted(ran) == [0, 0, 1, 1, 2, 2]


async def test_w13_no_more_is_in_flight_than_there_are_slots(house):
    """Nothing is fetched ahead: what waits, waits in Redis, where every worker can have it."""
    app, seen, running = house.app(), [], 0

    @app.handler(QUEUE)
    async def work():
        nonlocal running
        running += 1
        seen.append((running, len(house.books.pending())))
        await turns(100)
        running -= 1

    async with serving(app, concurrency=3):
        await app.publish_many(QUEUE, [{"type": "work"}] * 100)
        await done(house, 100)
    assert max(seen) <= (3, 3)
    assert max(pending for _, pending in seen) == 3


async def test_w16_only_the_pending_list_says_what_is_in_flight(house):
    """Everything else that Redis knows of workers is deleted: who runs goes on, and who died is still found out."""
    app, ran, go = house.app(lease=1.0), [], asyncio.Event()

    @app.handler(QUEUE)
    async def work(name: str):
        ran.append(name)
        await go.wait()

    async with serving(app, concurrency=1):
        await app.publish(QUEUE, {"type": "work", "name": "held"})
        await until(lambda: ran)
        await app.publish(QUEUE, {"type": "work", "name": "orphan"})
        dies_with(house, "dead", 1)
        house.raw("DEL", house.books.keys.workers)
        assert len(house.books.pending()) == 2
        go.set()
        await done(house, 2)
    assert ran == ["held", "orphan"]
    assert house.books.pending() == {}
