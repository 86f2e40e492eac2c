"""Faults of streams: what Redis Streams do that a queue must not. Others are in test_streams_*.py."""

import asyncio

import pytest

from streamq import Context, QueueFull, Retry
from streamq.core.config import LEVELS
from streamq.core.events import Fetched, Reclaimed, Settled
from streamq.runtime import janitor
from streamq.store.reader import QueueReader
from tests.faults.house import GROUP, QUEUE, eventually, serving
from tests.faults.recording import OF_THE_TEST, handle_all, offer, orphan, recording
from tests.runtime.rig import OTHER

pytestmark = pytest.mark.faults


async def test_s01_a_full_queue_refuses_and_loses_nothing(house):
    """A full queue refuses what has no room, delayed messages included, and everything that was accepted is run."""
    app, ran = house.app(max_length=1000), []
    handle_all(app, ran)
    async with app:
        await app.publish_many(QUEUE, offer("good", *(f"later{n}" for n in range(10))), delay=0.1)
        with pytest.raises(QueueFull) as refused:
            await app.publish_many(QUEUE, offer("good", *(f"now{n}" for n in range(1500))))
        accepted = [f"now{n}" for n, receipt in enumerate(refused.value.receipts) if receipt]
        assert accepted == [f"now{n}" for n in range(990)]
        async with serving(app) as worker:
            await worker.events.until(Settled, 1000)
    assert sorted(ran) == sorted([*accepted, *(f"later{n}" for n in range(10))])
    assert house.books.ledger() == {"accepted": 1000, "done": 1000, "promoted": 10}


async def test_s02_a_backlog_is_delivered_whole(house):
    """A backlog far longer than the nodes of a stream, which is where approximate trimming cuts, is delivered whole."""
    app, ran = house.app(max_length=0), []
    handle_all(app, ran)
    async with app:
        await app.publish_many(QUEUE, offer("good", *map(str, range(1000))))
        async with serving(app) as worker:
            await worker.events.until(Settled, 1000)
    assert sorted(ran, key=int) == [str(n) for n in range(1000)]


async def test_s06_what_was_published_before_the_first_worker_is_run(house):
    """The group begins at the first entry: messages older than it, also foreign ones, are not skipped."""
    app, ran = house.app(), []
    handle_all(app, ran)
    async with app:
        house.raw("XADD", house.books.keys.low, "*", "payload", '{"type":"good","key":"foreign"}')
        await app.publish(QUEUE, {"type": "good", "key": "ours"})
        assert house.raw("XINFO", "GROUPS", house.books.keys.normal) == []
        async with serving(app) as worker:
            await worker.events.until(Settled, 2)
    assert sorted(ran) == ["foreign", "ours"]


async def test_s09_a_janitor_spares_a_name_that_holds_something(house, monkeypatch):
    """A consumer that is gone is only forgotten when nothing is pending under it: its message is run."""
    monkeypatch.setattr(janitor, "EVERY", 0.02)
    app, ran, held = house.app(), [], []
    handle_all(app, ran, held=held)
    async with app, serving(app, concurrency=1, drain_timeout=0.05):
        await app.publish(QUEUE, {"type": "holds", "key": "held"})
        await eventually(lambda: held)
        with recording(house) as sent:
            orphan(house, "orphan")
            asked = [house.books.keys.low, GROUP, "-", "+", "1", OTHER]
            await eventually(lambda: sum(call.words[1:] == asked for call in sent.of("XPENDING")) > 2)
        assert house.books.pending("low") == {"orphan": (OTHER, 1)}
        assert OTHER in house.books.consumers()
    other = house.app()
    handle_all(other, ran, held=held)
    async with serving(other, drain_timeout=0.05):
        await eventually(lambda: ran == ["orphan"])
        await eventually(lambda: OTHER not in house.books.consumers() | house.books.beats())


def keep_alive(house, consumer, entries):
    """Beat for a worker that is not there, and renew what it holds."""
    house.raw("HSET", house.books.keys.workers, consumer, house.books.now_ms())
    house.raw("XCLAIM", house.books.keys.low, GROUP, consumer, 0, *entries, "JUSTID")


def hand_out(house, number, consumer):
    """So many entries in the hands of a consumer, in one step. Returns their entry ids."""
    text = f"""{OF_THE_TEST}
        for n = 1, ARGV[3] do
          redis.call('XADD', KEYS[1], '*', 'id', ARGV[2] .. n, 'payload', '{{"type":"good","key":"' .. n .. '"}}')
        end
        local ids = {{}}
        for n, item in ipairs(redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'STREAMS', KEYS[1], '>')[1][2]) do
          ids[n] = item[1]
        end
        return ids"""
    return house.raw("EVAL", text, 1, house.books.keys.low, GROUP, consumer, number)


async def test_s10_orphans_behind_many_live_entries_are_found(house):
    """300 pending, the first 250 of them renewed: the 50 behind them are taken over, since the cursor goes on."""
    app, ran = house.app(lease=3.0, limits={"silent_after": 3600.0}), []
    handle_all(app, ran)
    async with app, serving(app, concurrency=2):
        alive = hand_out(house, 250, "alive")
        orphans = hand_out(house, 50, OTHER)
        keep_alive(house, OTHER, orphans)
        house.raw("XCLAIM", house.books.keys.low, GROUP, OTHER, 0, *orphans, "IDLE", 3_600_000, "JUSTID")
        await eventually(lambda: keep_alive(house, "alive", alive) or len(ran) >= 50)
    assert sorted(ran, key=int) == [str(n) for n in range(1, 51)]
    assert set(house.books.pending("low").values()) == {("alive", 1)}
    assert house.books.ledger() == {"orphan": 50, "done": 50}


@pytest.mark.slow
async def test_s11_a_huge_pending_list_is_read_in_small_pages(house):
    """With 100,000 entries pending elsewhere no command asks for more than 50, and what is published is run at once."""
    app, ran = house.app(lease=60.0, max_length=0), []
    handle_all(app, ran)
    async with app, serving(app, concurrency=100) as worker:
        for _ in range(20):
            hand_out(house, 5000, "alive")
        house.raw("HSET", house.books.keys.workers, "alive", house.books.now_ms() + 3_600_000, "gone", 1)  # look now
        with recording(house) as sent:
            await eventually(lambda: any(c.words[5] == "0-0" for c in sent.of("XAUTOCLAIM")[4:]))
            await app.publish(QUEUE, {"type": "good", "key": "next"})
            await worker.events.until(Settled)
    assert ran == ["next"]
    counts = [int(c.words[-1]) for c in sent.of("XAUTOCLAIM")]
    assert counts
    assert max(counts) <= 50
    looks = [c for name in ("XPENDING", "XRANGE") for c in sent.of(name)]
    assert [c for c in looks if c.words[-1].isdigit() and int(c.words[-1]) > 50] == []


CLAIM = ("XCLAIM", "{key}", GROUP, "b", "0", "{entry}")
DELIVERIES = {
    "history": (("XREADGROUP", "GROUP", GROUP, "a", "STREAMS", "{key}", "0"), 2),
    "claim": (CLAIM, 2),
    "renewal": ((*CLAIM, "JUSTID"), 1),
    "autoclaim": (("XAUTOCLAIM", "{key}", GROUP, "b", "0", "0-0"), 2),
    "autoclaim-id": (("XAUTOCLAIM", "{key}", GROUP, "b", "0", "0-0", "JUSTID"), 1),
    "mark": ((*CLAIM, "RETRYCOUNT", "1001", "JUSTID"), 1001),
}


@pytest.mark.parametrize("how", DELIVERIES)
async def test_s12_which_commands_count_as_a_delivery(house, how):
    """The table that losses are reckoned by: claims and reads of the history count, asking for ids alone does not."""
    command, times = DELIVERIES[how]
    key = house.books.keys.normal
    house.raw("XGROUP", "CREATE", key, GROUP, "0", "MKSTREAM")
    entry = house.raw("XADD", key, "*", "id", "a", "payload", '{"type":"good","key":"a"}').decode()
    house.raw("XREADGROUP", "GROUP", GROUP, "a", "STREAMS", key, ">")
    house.raw(*(word.format(key=key, entry=entry) for word in command))
    ((_, counted),) = house.books.pending().values()
    assert counted == times


async def test_s12_only_a_worker_that_vanished_counts_as_a_loss(house):
    """Many beats over a running message add no delivery; a take-over adds one, and the message is not a suspect yet."""
    app, ran, held = house.app(limits={"beat_interval": 0.02}), [], []
    handle_all(app, ran, held=held)
    async with app, serving(app, drain_timeout=0.05) as worker:
        await app.publish(QUEUE, {"type": "holds", "key": "held"})
        await eventually(lambda: held)
        with recording(house) as sent:
            await eventually(lambda: len([c for c in sent.of("XCLAIM") if "JUSTID" in c.options]) > 10)
        ((consumer, times),) = house.books.pending().values()
        assert (consumer, times) == (worker.worker.consumer, 1)
        orphan(house, "orphan")
        await worker.events.until(Reclaimed, taken=1, suspects=0)
        await eventually(lambda: ran == ["orphan"])
    assert house.books.entries()[0].get("deliveries", "0") == "0"


async def test_s14_no_more_is_run_than_there_are_slots(house, monkeypatch):
    """One read over four streams may bring an entry of each: what has no slot goes back, and no handler too many
    ever runs."""
    app, running, peak = house.app(), set(), []
    fetch, rounds = QueueReader.fetch, iter(range(10))

    async def fetch_last(self, level, count):
        found = await fetch(self, level, count)
        if level == "low" and not found and (turn := next(rounds, None)) is not None:
            for each in LEVELS:  # after the pass, and before the read that waits for all of them
                entry = ("payload", f'{{"type":"work","key":"{each}-{turn}"}}')
                house.raw("XADD", house.books.keys.stream(each), "*", *entry)
        return found

    @app.handler(QUEUE)
    async def work(key: str):
        running.add(key)
        peak.append(len(running))
        await asyncio.to_thread(lambda: None)
        running.discard(key)

    monkeypatch.setattr(QueueReader, "fetch", fetch_last)
    async with app, serving(app, concurrency=2):
        await eventually(lambda: len(peak) >= 40)
    assert max(peak) == 2
    assert house.books.ledger()["released"] >= 10
    assert house.books.ledger()["done"] == 40


async def test_s15_workers_of_one_name_share_nothing(house):
    """Two workers that were given the same name run every message once."""
    app, ran = house.app(), []

    @app.handler(QUEUE)
    async def work(number: int):
        await asyncio.to_thread(lambda: None)
        ran.append(number)

    async with app:
        await app.publish_many(QUEUE, [{"type": "work", "number": n} for n in range(200)])
        async with serving(app, name="blue") as one, serving(app, name="blue") as two:
            assert one.worker.consumer != two.worker.consumer
            await eventually(lambda: len(ran) >= 200)
    assert sorted(ran) == list(range(200))
    assert house.books.ledger() == {"accepted": 200, "done": 200}


async def test_s18_a_message_keeps_its_id_wherever_it_goes(house):
    """Through delay, retry, take-over, dead letter and replay the entry id changes and the message's own never does."""
    app, seen = house.app(max_retries=1), []

    @app.handler(QUEUE)
    async def work(ctx: Context):
        seen.append(ctx.message.id)
        if len(seen) < 3:
            raise Retry(after=0.01) if len(seen) == 1 else RuntimeError("dead")

    async with app, serving(app) as worker:
        receipt = await app.publish(QUEUE, {"type": "work"}, delay=0.01, message_id="ours")
        await worker.events.until(Settled, 2)
        again = await app.publish(QUEUE, {"type": "work"}, message_id="ours")
        fates = [fate async for fate in app.dead_letters.replay_matching(force=True)]
        await worker.events.until(Settled, 3)
    assert (receipt.id, again.duplicate, len(fates)) == ("ours", True, 1)
    assert seen == ["ours"] * 3
    assert house.books.ledger()["done"] == 1


async def test_s19_a_drained_stream_gives_its_memory_back(house):
    """When all of a backlog is done, what Redis keeps of its stream is a small fraction of what it was."""
    app, ran = house.app(max_length=0), []
    handle_all(app, ran)
    key = house.books.keys.normal
    async with app:
        await app.publish_many(QUEUE, offer("good", *map(str, range(2000))))
        full = house.raw("MEMORY", "USAGE", key, "SAMPLES", 0)
        async with serving(app) as worker:
            await worker.events.until(Settled, 2000)
    assert house.raw("MEMORY", "USAGE", key, "SAMPLES", 0) < full / 20


async def test_s19_one_message_that_stays_long_is_seen(house):
    """The age of the oldest pending entry, which keeps its neighbours' memory, is told by the figures of the queue."""
    app, ran, held = house.app(), [], []
    handle_all(app, ran, held=held)
    async with app, serving(app, drain_timeout=0.05):
        an_hour_ago = house.books.now_ms() - 3_600_000
        house.raw("XADD", house.books.keys.normal, an_hour_ago, "payload", '{"type":"holds","key":"held"}')
        await eventually(lambda: held)
        (stats,) = await app.session.inspector.stats([QUEUE])
    assert 3600 <= stats.oldest_pending_age_s < 3700


async def test_s20_what_is_pending_is_bounded_by_the_slots(house):
    """However long the backlog, the pending list, which Redis pays for by the entry, is no longer than the slots."""
    app, sizes = house.app(max_length=0), []

    @app.handler(QUEUE)
    async def work(number: int):
        sizes.append(house.raw("XPENDING", house.books.keys.normal, GROUP)[0])

    async with app:
        await app.publish_many(QUEUE, [{"type": "work", "number": n} for n in range(300)])
        async with serving(app, concurrency=4) as worker:
            await worker.events.until(Settled, 300)
            assert sum(event.count for event in worker.events.of(Fetched)) == 300
    assert 1 < max(sizes) <= 4
    assert house.raw("XPENDING", house.books.keys.normal, GROUP)[0] == 0
