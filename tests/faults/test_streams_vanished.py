"""What others do to a stream behind the back of the workers: entries are deleted, ids are used up."""

import asyncio
import json

import pytest

from streamq.core.errors import RedisUnavailable
from streamq.core.events import LeaseLost, Settled, Vanished
from streamq.ext.metrics import Metrics
from tests.e2e.cli import Cli
from tests.faults.house import QUEUE, eventually, serving
from tests.faults.recording import handle_all, offer, orphan

pytestmark = pytest.mark.faults

LAST_ID = "18446744073709551615-18446744073709551615"


def gated(app):
    """Handlers that wait until the test lets them succeed or fail."""
    go, running = asyncio.Event(), []

    @app.handler(QUEUE)
    async def succeeds(key: str):
        running.append(key)
        await go.wait()

    @app.handler(QUEUE)
    async def fails(key: str):
        running.append(key)
        await go.wait()
        raise RuntimeError("boom")

    return go, running


@pytest.mark.parametrize("how", ["trim", "delete"])
async def test_s03_what_vanishes_is_counted_and_told(house, how):
    """A stream is trimmed under a running worker: it lives and works on, what vanished is off its pending list, and
    metrics, log and audit show how many messages somebody else took."""
    app = house.app(lease=60.0, limits={"beat_interval": 30.0})
    go, running = gated(app)
    metrics = Metrics(app.registry, list, list, float, int)
    app.observe(metrics)
    key = house.books.keys.normal
    async with app, serving(app, concurrency=2) as worker:
        await app.publish(QUEUE, {"type": "succeeds", "key": "a"})
        await app.publish(QUEUE, {"type": "fails", "key": "b"})
        await eventually(lambda: len(running) == 2)
        await app.publish_many(QUEUE, offer("succeeds", "c", "d", "e"))  # nobody has fetched these
        if how == "trim":
            house.raw("XTRIM", key, "MAXLEN", 0)
        else:
            house.raw("XDEL", key, *(entry for entry, _ in house.raw("XRANGE", key, "-", "+")))
        go.set()
        await worker.events.until(Vanished, count=1)
        await app.publish(QUEUE, {"type": "succeeds", "key": "next"})
        await worker.events.until(Settled, 3)
    assert running == ["a", "b", "next"]
    assert house.books.pending() == {}
    assert {name: house.books.ledger()[name] for name in ("accepted", "done", "vanished")} == (
        {"accepted": 6, "done": 2, "vanished": 1}
    )
    assert b'streamq_vanished_total{queue="orders"} 1.0' in metrics.text()
    house.outside[QUEUE] = 4  # the failed one and the three that nobody had: a success that vanished was done


@pytest.mark.parametrize("silent", [True, False], ids=["silent", "idle"])
async def test_s03_orphans_that_vanished_are_counted_and_told(house, silent):
    """Entries of a worker that is gone, deleted before anybody took them over: they are counted and hold up nobody."""
    app, ran = house.app(lease=2.0, limits={"silent_after": 1.0}), []
    handle_all(app, ran)
    low = house.books.keys.low
    async with app:
        await app.session.inspector.store(QUEUE).ensure()
        for number in range(3):
            orphan(house, f"gone{number}")
        entries = [entry for entry, _ in house.raw("XRANGE", low, "-", "+")]
        if not silent:  # nobody knows them by name: they are found when their lease is over
            house.raw("DEL", house.books.keys.workers)
            house.raw("XCLAIM", low, "streamq", "other", 0, *entries, "IDLE", 3_600_000, "JUSTID")
        house.raw("XDEL", low, *entries)
        orphan(house, "stays")
        async with serving(app) as worker:
            await worker.events.until(Vanished, count=3)
            await eventually(lambda: ran == ["stays"])
    assert house.books.pending("low") == {}
    assert house.books.ledger()["vanished"] == 3
    house.outside[QUEUE] = 3


async def test_s03_what_vanishes_while_it_runs_is_let_go(house):
    """The next beat finds that an entry is gone: its handler is stopped, for there is nothing left to settle."""
    app, held = house.app(limits={"beat_interval": 0.05}), []
    handle_all(app, [], held=held)
    async with app, serving(app) as worker:
        await app.publish(QUEUE, {"type": "holds", "key": "held"})
        await eventually(lambda: held)
        house.raw("XTRIM", house.books.keys.normal, "MAXLEN", 0)
        await worker.events.until(LeaseLost)
        await eventually(lambda: worker.running() == 0)
    assert house.books.ledger() == {"accepted": 1, "vanished": 1}
    house.outside[QUEUE] = 1


def test_s03_the_audit_and_the_doctor_are_red(server, tmp_path):
    """`streamq audit` fails and names the difference, and `streamq doctor` points to it, until it is written off."""
    cli = Cli(server.url, tmp_path)
    cli.publish("good")
    cli.redis.xtrim("queue:mail", 0)
    (row,) = [row for row in cli.json("audit", code=1) if row["queue"] == "mail"]
    assert row["imbalance"] == 1
    books = [row for row in cli.json("doctor") if row["check"] == "books"]
    assert [row["status"] for row in books] == ["warn"]
    cli.close()


async def test_s17_a_stream_without_ids_costs_no_message(house):
    """A stream whose last id is used up takes nothing: publishing says so, the other levels work, and what waits for it
    waits on until the stream is made anew."""
    app, ran = house.app(), []
    handle_all(app, ran)
    key = house.books.keys.normal
    async with app, serving(app) as worker:
        await app.publish(QUEUE, {"type": "good", "key": "later"}, delay=0.3)
        await app.publish(QUEUE, {"type": "holds", "key": "held"}, delay=3600)
        house.raw("XADD", key, LAST_ID, "payload", '{"type":"retries","key":"last"}')
        await worker.events.until(Settled)
        with pytest.raises(RedisUnavailable, match="exhausted"):
            await app.publish(QUEUE, {"type": "good", "key": "refused"})
        await app.publish(QUEUE, {"type": "good", "key": "high"}, priority="high")
        await eventually(lambda: "high" in ran)
        await eventually(lambda: min(house.books.delayed().values()) > 10_000)  # tried, and put off
        assert len(house.books.delayed()) == 3
        house.raw("DEL", key)
        await worker.events.until(Settled, 2)
    assert ran == ["high"]
    kinds = (json.loads(house.books.waiting(name)["payload"])["type"] for name in house.books.delayed())
    assert sorted(kinds) == ["good", "holds", "retries"]
    house.outside[QUEUE] = -1  # the entry with the last id lies there, and the stream that knew of it is gone


def test_s17_the_doctor_is_red(server, tmp_path):
    """`streamq doctor` fails on a stream that takes no more entries."""
    cli = Cli(server.url, tmp_path)
    cli.publish("good")
    cli.redis.xadd("queue:mail", {"payload": '{"type":"good"}'}, id=LAST_ID)
    failed = [row for row in cli.json("doctor", code=1) if row["status"] == "fail"]
    assert any(row["check"] == "stream ids" and "queue:mail" in row["detail"] for row in failed)
    cli.close()
