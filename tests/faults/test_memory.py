"""Faults of scripts and memory: a Redis that is full, a key that is in the way, a message that is too large."""

import asyncio

import pytest

from streamq import MessageTooLarge, QueueFull
from streamq.core.events import Reclaimed, RedisUnavailable, Settled
from streamq.store.dead_letters import Filter
from streamq.store.outages import RedisRefused
from streamq.store.scripts import script
from tests.faults.house import QUEUE, eventually, serving
from tests.faults.recording import handle_all, offer, orphan, recording
from tests.runtime.rig import fields

pytestmark = pytest.mark.faults

MIB = 1024 * 1024


async def fill(house, app):
    """Publish until Redis is out of memory. Returns the keys of what it took."""
    limit = int(house.raw("INFO", "memory").decode().partition("used_memory:")[2].split()[0]) + 3 * MIB
    house.raw("CONFIG", "SET", "maxmemory", limit)
    ballast = {"ballast": "x" * 20_000}
    with pytest.raises(QueueFull, match="out of memory") as full:
        await app.publish_many(QUEUE, [good | ballast for good in offer("good", *map(str, range(1000)))])
    return [str(number) for number, receipt in enumerate(full.value.receipts) if receipt]


async def test_m01_a_queue_drains_to_empty_while_memory_is_full(house):
    """A Redis without memory refuses what is published, and every fate that a message can meet still goes its way:
    done, retried, snoozed, dropped, dead, delayed, taken over, run alone, replayed."""
    app, ran = house.app(limits={"silent_after": 1.0}), []
    handle_all(app, ran)
    kinds = ("retries", "snoozes", "rejects", "fails", "drops")
    async with app:
        await app.session.inspector.store(QUEUE).ensure()
        orphan(house, "orphan")
        orphan(house, "suspect", deliveries=1, consumer="another")
        for kind in kinds:
            await app.publish(QUEUE, {"type": kind, "key": kind})
        await app.publish(QUEUE, {"type": "good", "key": "later"}, delay=0.2)
        with house.setting(maxmemory=0):
            taken = await fill(house, app)
            house.raw("CONFIG", "SET", "maxmemory", 1)
            async with serving(app) as worker:
                await worker.events.until(Reclaimed, suspects=1)
                expected = {"retries", "snoozes", "later", "orphan", "suspect", *taken}
                await eventually(lambda: expected <= set(ran))
                await eventually(lambda: len(house.books.letters()) == 2)
                fates = app.dead_letters.replay_matching(Filter(reason="rejected"), force=True)
                assert [fate.fate async for fate in fates] == ["replayed"]
                await eventually(lambda: house.books.ledger()["dead"] == 3)
            with pytest.raises(QueueFull, match="out of memory"):
                await app.publish(QUEUE, {"type": "good", "key": "refused"})
    assert sorted(ran) == sorted(expected)
    assert house.books.is_empty()
    once = ("dropped", "replayed", "retried", "snoozed", "suspect")
    assert {name: house.books.ledger()[name] for name in once} == dict.fromkeys(once, 1)


async def test_m01_a_worker_that_ends_gives_back_without_memory(house):
    """What is held, and what is of a type that nobody knows, finds its way back although memory is full."""
    app, held = house.app(), []
    handle_all(app, [], held=held)
    async with app:
        await app.publish(QUEUE, {"type": "holds", "key": "held"})
        await app.publish(QUEUE, {"type": "unknown", "key": "unknown"})
        with house.setting(maxmemory=1):
            async with serving(app, drain_timeout=0.05) as worker:
                await eventually(lambda: held and house.books.delayed())
    assert worker.cut_short == 1
    assert [entry["id"] for entry in house.books.entries()] == house.books.ready()
    assert (len(house.books.ready()), len(house.books.delayed()), house.books.consumers()) == (1, 1, set())


async def test_m02_what_only_removes_is_never_refused_for_memory(house):
    """Acknowledging a backlog goes on at `maxmemory 1`, where every command that could add something is refused."""
    app, ran = house.app(), []
    handle_all(app, ran)
    async with app:
        await app.publish_many(QUEUE, offer("good", *map(str, range(100))))
        with house.setting(maxmemory=1):
            async with serving(app) as worker:
                await worker.events.until(Settled, 100)
            assert house.books.ledger() == {"accepted": 100, "done": 100}
    assert len(ran) == 100
    assert house.books.is_empty()


async def test_m04_a_batch_that_memory_refuses_leaves_nothing(house):
    """A publish without memory writes none of its messages, and the same ids are accepted once there is some."""
    async with house.app() as app:
        await app.publish(QUEUE, {"type": "good", "key": "before"})
        before = {key: house.raw("DUMP", key) for key in house.raw("KEYS", "*")}
        with house.setting(maxmemory=1):
            with pytest.raises(QueueFull, match="out of memory"):
                await app.publish_many(QUEUE, offer("good", *map(str, range(600))))
            for delay in (None, 60):
                with pytest.raises(QueueFull, match="out of memory"):
                    await app.publish(QUEUE, {"type": "good", "key": "a"}, message_id="a", delay=delay)
        assert {key: house.raw("DUMP", key) for key in house.raw("KEYS", "*")} == before
        assert not (await app.publish(QUEUE, {"type": "good", "key": "a"}, message_id="a")).duplicate
    assert house.books.ledger() == {"accepted": 2}


async def test_m04_a_full_redis_is_waited_for_where_that_is_wanted(house):
    """`on_full: block` waits for memory, and then the message is accepted once."""
    app = house.app(on_full="block")
    async with app:
        with house.setting(maxmemory=1):
            publishing = asyncio.ensure_future(app.publish(QUEUE, {"type": "good", "key": "a"}))
            await eventually(lambda: b"cmdstat_evalsha" in house.raw("INFO", "commandstats"))
        await publishing
    assert house.books.ledger() == {"accepted": 1}


FATES = {"rejects": "dead_letter", "retries": "delayed", "snoozes": "messages", "good": "ledger", "fails": "ledger"}


@pytest.mark.parametrize(("kind", "name"), FATES.items(), ids=FATES)
async def test_m03_a_key_in_the_way_costs_no_message(house, kind, name):
    """Where an outcome cannot be written because a key has another type, the message stays pending until it can."""
    app, ran = house.app(), []
    handle_all(app, ran)
    key = getattr(house.books.keys, name, None) or house.books.keyspace.dead_letter
    async with app, serving(app) as worker:
        await app.publish(QUEUE, {"type": "good", "key": "before"})
        await worker.events.until(Settled)
        stashed = house.raw("EXISTS", key) and house.raw("RENAME", key, "stash")
        house.raw("SET", key, "x")
        entry = fields("m1", payload=f'{{"type":"{kind}","key":"m1"}}')
        house.raw("XADD", house.books.keys.normal, "*", *entry)
        await eventually(lambda: house.books.pending().get("m1"))
        await worker.events.until(RedisUnavailable, role="settle")
        assert house.books.pending() == {"m1": (worker.worker.consumer, 1)}
        house.raw("DEL", key)
        if stashed:
            house.raw("RENAME", "stash", key)
        await worker.events.until(Settled, 2)
        if kind in ("retries", "snoozes"):
            await worker.events.until(Settled, 3)
    assert house.books.is_empty()
    assert len(house.books.letters()) == (kind in ("rejects", "fails"))


async def test_m03_a_key_in_the_way_refuses_a_publish_whole(house):
    """Whichever key of a queue has another type: nothing is written, and the caller is told at once."""
    async with house.app() as app:
        for name in ("critical", "high", "normal", "low", "delayed", "messages", "ledger", "seen_0", "seen_1"):
            key = getattr(house.books.keys, name)
            house.raw("SET", key, "x")
            with pytest.raises(RedisRefused, match="WRONGTYPE"):
                await app.publish(QUEUE, {"type": "good", "key": "a"})
            assert set(house.raw("KEYS", "*")) == {key.encode(), b"queue:names"}
            house.raw("DEL", key)


async def test_m10_thousands_at_once_go_in_batches(house):
    """Thousands of messages in one call, delayed ones too, and as many outcomes in one turn: no script is too long."""
    app, ran = house.app(max_length=0), []
    handle_all(app, ran)
    async with app:
        with recording(house) as sent:
            await app.publish_many(QUEUE, offer("good", *map(str, range(1200))))
            await app.publish_many(QUEUE, offer("retries", *(f"r{n}" for n in range(600))), delay=0.001)
            async with serving(app, concurrency=2000) as worker:
                await eventually(lambda: len(ran) >= 1800)
                await eventually(lambda: not worker.running())
    assert house.books.ledger()["done"] == 1800
    publishes = [call.words for call in sent.of("EVALSHA") if call.words[1] == script("publish").sha]
    drafts = [int(words[3 + int(words[2]) + 3]) for words in publishes]
    assert max(drafts) == 500
    assert max(len(call.words) for call in sent if call.script) <= 2 + 500


async def test_m10_an_entry_of_ten_thousand_values_is_a_dead_letter(house):
    """An entry with more fields than a script can unpack holds nobody up, whatever becomes of it."""
    app, ran = house.app(limits={"silent_after": 1.0}), []
    handle_all(app, ran)
    many = [part for n in range(5000) for part in (f"f{n}", "v")]
    async with app, serving(app) as worker:
        house.raw("XADD", house.books.keys.normal, "*", *many)
        house.raw("XADD", house.books.keys.normal, "*", "payload", '{"type":"good","key":"m"}', *many)
        await app.publish(QUEUE, {"type": "good", "key": "next"})
        await worker.events.until(Settled, 3)
    assert "next" in ran
    assert {letter["reason"] for letter in house.books.letters()} == {"malformed"}
    assert house.books.is_empty()


async def test_m16_a_giant_message_is_refused_before_it_is_sent(house):
    """More than `max_size`, or than 1 MiB whatever the queue says, never leaves the publisher."""
    async with house.app() as app, house.app(max_size=8 * MIB) as large:
        with pytest.raises(MessageTooLarge, match="max_size"):
            await app.publish(QUEUE, {"type": "good", "key": "x" * 256 * 1024})
        with pytest.raises(MessageTooLarge):
            await large.publish(QUEUE, {"type": "good", "key": "x" * MIB})
        with pytest.raises(MessageTooLarge):
            await large.publish_many(QUEUE, offer("good", "small", "x" * MIB))
    assert house.raw("KEYS", "*") == []


async def test_m16_a_giant_entry_is_a_dead_letter_unread(house):
    """A giant that somebody else added is not decoded and runs nothing; what is behind it does."""
    app, ran = house.app(), []
    handle_all(app, ran)
    async with app, serving(app) as worker:
        giant = f'{{"type":"good","key":"{"x" * 4 * MIB}"}}'
        house.raw("XADD", house.books.keys.normal, "*", "id", "giant", "queue", QUEUE, "payload", giant)
        await app.publish(QUEUE, {"type": "good", "key": "next"})
        await worker.events.until(Settled, 2)
    assert ran == ["next"]
    (letter,) = house.books.letters()
    assert (letter["reason"], letter["original_id"], letter["payload"]) == ("too_large", "giant", giant)
