"""Keys that somebody deletes, renames or overwrites under a worker that waits: it reads on, and says so."""

import time
from contextlib import asynccontextmanager

import pytest

from streamq.core.events import RedisUnavailable, Settled
from tests.faults.house import GROUP, QUEUE, eventually, serving
from tests.faults.recording import handle_all

pytestmark = pytest.mark.faults

SOON = 2.0  # seconds within which reading must go on

GONE = {
    "del": [("DEL", "{key}")],
    "unlink": [("UNLINK", "{key}")],
    "flushall": [("FLUSHALL",)],
    "rename": [("RENAME", "{key}", "elsewhere")],
    "expire": [("PEXPIRE", "{key}", "30")],
    "set": [("SET", "{key}", "x")],
    "destroy": [("XGROUP", "DESTROY", "{key}", GROUP)],
}


@asynccontextmanager
async def waiting(house, **config):
    """A worker that is blocked in a read, and has run one message before."""
    app, ran = house.app(**config), []
    handle_all(app, ran)
    async with app, serving(app) as worker:
        await app.publish(QUEUE, {"type": "good", "key": "before"})
        await worker.events.until(Settled)
        await eventually(lambda: b"blocked_clients:1" in house.raw("INFO", "clients"))
        yield app, worker, ran


def spoil(house, how, key):
    for command in GONE[how]:
        house.raw(*(word.format(key=key) for word in command))


@pytest.mark.parametrize("level", ["normal", "critical"])
@pytest.mark.parametrize("how", GONE)
async def test_s07_reading_goes_on_when_a_stream_is_lost(house, how, level):
    """Deleted, emptied, renamed, expired, overwritten or without its group: consumption resumes within 2 s of the key
    being usable, the worker tells of it, and the audit knows that a stream was lost."""
    async with waiting(house) as (app, worker, ran):
        key = house.books.keys.stream(level)
        await app.publish(QUEUE, {"type": "good", "key": "first"}, priority=level)
        await worker.events.until(Settled, 2)
        await eventually(lambda: b"blocked_clients:1" in house.raw("INFO", "clients"))
        spoil(house, how, key)
        await worker.events.until(RedisUnavailable, role="fetch", back=False)
        if how == "set":
            house.raw("DEL", key)
        usable_at = time.monotonic()
        await app.publish(QUEUE, {"type": "good", "key": "after"}, priority=level)
        await eventually(lambda: "after" in ran)
        assert time.monotonic() - usable_at < SOON
        await worker.events.until(RedisUnavailable, role="fetch", back=True)
        await worker.events.until(Settled, 3)
    assert ran == ["before", "first", "after"]
    moment = await house.moment()
    lost = how not in ("destroy", "flushall")  # the one loses no entry, the other the books as well
    assert moment.deleted_streams == ([level] if lost else [])
    house.deleted[QUEUE] = moment.deleted_streams


@pytest.mark.parametrize("how", ["del", "rename", "set"])
async def test_s07_what_a_lost_stream_held_is_missing_from_the_books(house, how):
    """The audit shows how many messages went with a stream that somebody removed."""
    async with house.app() as app:
        await app.publish_many(QUEUE, [{"type": "good", "key": str(n)} for n in range(7)])
        spoil(house, how, house.books.keys.normal)
        if how == "set":
            house.raw("DEL", house.books.keys.normal)
    async with waiting(house):
        pass
    moment = await house.moment()
    assert (moment.imbalance, moment.deleted_streams) == (7, ["normal"])
    house.outside[QUEUE], house.deleted[QUEUE] = 7, ["normal"]


async def test_s07_a_renamed_stream_that_comes_back_is_worked_off(house):
    """Messages that were renamed away are run when their name comes back, and then the books balance again."""
    async with waiting(house) as (_, worker, ran):
        key = house.books.keys.normal
        house.raw("RENAME", key, "elsewhere")
        await worker.events.until(RedisUnavailable, role="fetch", back=True)
        house.raw("XADD", "elsewhere", "*", "payload", '{"type":"good","key":"kept"}')
        house.raw("RENAME", "elsewhere", key)
        await eventually(lambda: "kept" in ran)
        await worker.events.until(Settled, 2)


async def test_s07_messages_survive_their_group(house):
    """XGROUP DESTROY forgets who held what: the group is made again at 0 and nothing is missed; what runs meanwhile is
    started once more at most."""
    app, ran, held = house.app(), [], []
    handle_all(app, ran, held=held)
    async with app:
        async with serving(app, concurrency=2, drain_timeout=0.05) as worker:
            await app.publish(QUEUE, {"type": "holds", "key": "held"})
            await eventually(lambda: held)
            house.raw("XGROUP", "DESTROY", house.books.keys.normal, GROUP)
            await app.publish_many(QUEUE, [{"type": "good", "key": str(n)} for n in range(20)])
            await worker.events.until(Settled, 20)
            (name,) = house.books.pending().values()
            assert name == (worker.worker.consumer, 1)
        assert worker.cut_short == 1
    assert (set(held), sorted(ran, key=int)) == ({"held"}, [str(n) for n in range(20)])
    assert len(held) <= 2  # a beat that comes between the new group and the next read says that its lease is lost
    assert [house.books.ledger()[name] for name in ("accepted", "done", "released")] == [21, 20, 1]
    assert len(house.books.ready()) == 1


async def test_s07_any_other_key_may_go_while_a_worker_waits(house):
    """Whatever else of a queue is deleted: the worker reads on, and runs, delays and buries what comes."""
    keys, keyspace = house.books.keys, house.books.keyspace
    others = ["delayed", "messages", "workers", "seen_0", "seen_1", "high"]
    async with waiting(house) as (_, worker, ran):
        for key in (*(getattr(keys, name) for name in others), keyspace.dead_letter, keyspace.names):
            house.raw("DEL", key)
            async with house.app() as publisher:  # whose first message registers the queue again
                for kind in ("good", "retries", "rejects"):
                    await publisher.publish(QUEUE, {"type": kind, "key": f"{kind}-{key}"})
            await eventually(lambda key=key: f"good-{key}" in ran)
            await eventually(lambda key=key: any(key in letter["payload"] for letter in house.books.letters()))
            if key in (keys.delayed, keys.messages):  # before the next one takes away what waits here
                await eventually(lambda key=key: f"retries-{key}" in ran)
        await worker.events.until(Settled, 1 + 4 * 8)
    assert len(ran) == 1 + 2 * 8
    assert house.books.ledger()["dead"] == 8
    house.dead_outside = 6  # letters that went with their stream
    house.deleted[QUEUE] = (await house.moment()).deleted_streams


async def test_s07_a_lost_ledger_costs_no_message(house):
    """Without its counters a queue works on, and the audit shows that they do not balance any more."""
    async with waiting(house) as (app, worker, ran):
        house.raw("DEL", house.books.keys.ledger)
        await app.publish(QUEUE, {"type": "good", "key": "after"})
        await worker.events.until(Settled, 2)
    assert ran == ["before", "after"]
    assert (await house.moment()).imbalance == 1  # the message before was added, and for all they know never done
    house.outside[QUEUE] = 1


async def test_s08_a_stream_that_is_made_anew_in_one_step_is_read(house):
    """Deleted and made again while a reader waits, which Redis does not tell it: it reads on within one BLOCK."""
    async with waiting(house) as (app, worker, ran):
        key = house.books.keys.normal
        anew = "redis.call('DEL', KEYS[1]); redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')"
        house.raw("EVAL", anew, 1, key, GROUP)
        usable_at = time.monotonic()
        await app.publish(QUEUE, {"type": "good", "key": "after"})
        await worker.events.until(Settled, 2)
        assert time.monotonic() - usable_at < SOON
    assert ran == ["before", "after"]
    assert (await house.moment()).deleted_streams == ["normal"]
    house.deleted[QUEUE] = ["normal"]
