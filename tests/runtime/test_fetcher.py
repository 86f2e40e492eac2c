"""Free slots are filled, the most urgent level first; nothing is read that has no slot; nothing after quiet."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from streamq.core.config import LEVELS
from streamq.core.events import Fetched
from streamq.core.outcome import Release
from streamq.runtime.fetcher import Fetcher
from streamq.runtime.reclaimer import Reclaimer
from streamq.runtime.settler import Verdict
from streamq.store.reader import QueueReader
from tests.runtime.rig import OTHER, QUEUE, US, soon, turns, until

BLOCK = {"block": 30.0}  # seconds: no test waits for its end


class Reader(QueueReader):
    """A reader that writes down what it was asked."""

    def __init__(self, rig):
        super().__init__(rig.wire, QUEUE, rig.keys, rig.store.group, US)
        self.asked = []
        self.waits = 0

    async def fetch(self, level, count):
        self.asked.append((level, count))
        return await super().fetch(level, count)

    async def wait(self, block):
        self.waits += 1
        return await super().wait(block)


class Bench:
    """A fetcher, its reader, and what became of its deliveries."""

    def __init__(self, rig, *, burst=False):
        self.rig, self.reader = rig, Reader(rig)
        self.settler, _ = rig.settler()
        self.started, self.released = [], []
        self.fetcher = Fetcher(rig.lane, self.reader, start=self.start, release=self.release, burst=burst)

    def start(self, delivery):
        self.started.append(delivery.message_id)
        assert self.rig.lane.in_flight.take(delivery)

    def release(self, delivery):
        self.released.append(delivery.message_id)
        self.settler.put(Verdict(delivery, Release()))

    def free(self, number=None):
        """Let handlers end."""
        for delivery in self.rig.lane.in_flight.deliveries()[:number]:
            self.rig.raw("XACK", self.rig.keys.stream(delivery.level), self.rig.store.group, delivery.entry_id)
            self.rig.raw("XDEL", self.rig.keys.stream(delivery.level), delivery.entry_id)
            self.rig.outside += 1
            self.rig.lane.in_flight.drop(delivery)

    @asynccontextmanager
    async def running(self):
        """Run the role; at the end it must hear that it is time to be quiet."""
        task = asyncio.ensure_future(self.fetcher.run())
        try:
            yield task
        finally:
            self.rig.lifecycle.quiet()
            while not task.done():  # a read that only just begins is not there yet to be woken
                self.rig.lane.in_flight.poke()
                await self.reader.wake()
                await turns()
            await task

    async def waiting(self):
        """Wait until the doorbell blocks."""
        await until(lambda: b"blocked_clients:0" not in self.rig.raw("INFO", "clients"))


@pytest.fixture
async def three(make_rig):
    return Bench(await make_rig(slots=3, limits=BLOCK))


async def test_a_pass_goes_from_critical_to_low_until_the_slots_are_full(three):
    for level in LEVELS:
        await three.rig.add(f"{level}-1", f"{level}-2", level=level)
    assert await three.fetcher.fetch_ready() == 3
    assert three.reader.asked == [("critical", 3), ("high", 1)]
    assert three.started == ["critical-1", "critical-2", "high-1"]


async def test_a_pass_asks_every_level_when_nothing_is_there(three):
    assert await three.fetcher.fetch_ready() == 0
    assert three.reader.asked == [(level, 3) for level in LEVELS]


async def test_every_tenth_pass_begins_one_level_lower_in_turn(three):
    """So that none starves while the more urgent ones never run dry."""
    orders = [three.fetcher.next_order() for _ in range(50)]
    assert [number for number, order in enumerate(orders, start=1) if order != LEVELS] == [10, 20, 30, 50]
    assert orders[9] == ("high", "normal", "low", "critical")
    assert orders[19] == ("normal", "low", "critical", "high")
    assert orders[29] == ("low", "critical", "high", "normal")
    assert orders[49] == orders[9]


async def test_low_is_reached_while_critical_never_runs_dry(make_rig):
    bench = Bench(await make_rig(slots=1))
    for level in LEVELS[:3]:
        await bench.rig.add(number=60, level=level)
    await bench.rig.add("patient", level="low")
    for _ in range(30):
        await bench.fetcher.fetch_ready()
        bench.free()
    assert bench.started[29] == "patient"


async def test_slots_are_never_overcommitted(three):
    """However much is ready, no more is held than there are slots, and each freed one is filled."""
    await three.rig.add(number=10)
    most = 0
    async with three.running():
        for _ in range(10):
            await until(lambda: len(three.rig.lane.in_flight) == 3 or len(three.started) == 10)
            await turns()
            most = max(most, len(three.rig.pending()))
            three.free(1)
    assert (most, len(three.started)) == (3, 10)
    assert three.released == []


async def test_without_a_free_slot_nothing_is_read(three):
    await three.rig.add(number=5)
    async with three.running():
        await until(lambda: len(three.started) >= 3)
        asked = len(three.reader.asked)
        await turns(100)
        assert (len(three.reader.asked), three.reader.waits) == (asked, 0)
        assert len(three.rig.ready()) == 2


@pytest.mark.parametrize("taken", [1, 3])
async def test_slots_that_a_reclaim_takes_are_not_read_for(three, taken):
    await three.rig.add(number=5)
    with three.rig.lane.in_flight.reserve(taken):
        assert await three.fetcher.fetch_ready() == 3 - taken
    assert three.released == []


async def test_the_doorbell_does_not_ring_without_a_free_slot(three):
    """Between the pass and the doorbell a reclaim may have taken the last one."""
    await three.rig.add(number=5)
    with three.rig.lane.in_flight.reserve(3):
        await soon(three.fetcher.await_doorbell())
    assert (three.reader.waits, three.started, three.released) == (0, [], [])


async def test_a_slot_that_a_reclaim_claims_is_left_to_it(make_rig):
    bench = Bench(await make_rig(slots=1, limits=BLOCK))
    await bench.rig.add("a")
    bench.rig.lane.in_flight.claimed = True
    async with bench.running():
        await turns(100)
        assert (bench.reader.asked, bench.reader.waits) == ([], 0)
        bench.rig.lane.in_flight.claimed = False
        bench.rig.lane.in_flight.poke()
        await until(lambda: bench.started)


async def test_the_doorbell_hands_back_what_has_no_slot(make_rig):
    """It may bring one entry of each level."""
    bench = Bench(await make_rig(slots=1, limits=BLOCK))
    for level in LEVELS:
        await bench.rig.add(level, level=level)
    await soon(bench.fetcher.await_doorbell())
    assert (bench.started, bench.released) == (["critical"], ["high", "normal", "low"])
    await soon(bench.settler.settle())
    assert [bench.rig.ready(level) for level in LEVELS] == [[], ["high"], ["normal"], ["low"]]
    assert bench.rig.ledger()["released"] == 3


async def test_the_doorbell_rings_at_once_and_a_pass_follows(three):
    async with three.running():
        await three.waiting()
        await three.rig.add("a", "b", "c", level="low")
        await until(lambda: len(three.started) >= 3)
    assert three.started == ["a", "b", "c"]
    assert three.reader.waits == 1


async def test_the_doorbell_brings_one_of_a_level_however_many_there_are(three):
    """A blocked read with a large COUNT would hand a whole batch to one worker."""
    await three.rig.add("a", "b", "c")
    await soon(three.fetcher.await_doorbell())
    assert three.started == ["a"]


async def test_an_idle_worker_with_few_slots_still_takes_over_orphans(make_rig):
    """While it waits for the doorbell, its free slots are free."""
    bench = Bench(await make_rig(slots=1, limits=BLOCK))
    rig = bench.rig
    orphan = await rig.deliver_one("orphan", consumer=OTHER)
    rig.age(orphan)
    taken = []
    async with bench.running():
        await bench.waiting()
        assert await Reclaimer(rig.lane, start=taken.append).sweep() == 1
    assert [delivery.message_id for delivery in taken] == ["orphan"]


async def test_an_idle_worker_that_is_not_read_for_is_not_ready(make_rig):
    """Slots that the doorbell would fill do not count as taken: the health rule looks at free ones."""
    bench = Bench(await make_rig(slots=1, limits=BLOCK))
    async with bench.running():
        await bench.waiting()
        assert bench.rig.lane.in_flight.free == 1


async def test_quiet_ends_the_wait_and_nothing_is_stranded(three):
    async with three.running() as task:
        await three.waiting()
        three.rig.lifecycle.quiet()
        await three.reader.wake()
        await soon(task)
    await three.rig.add("later")
    assert (three.rig.pending(), three.rig.ready()) == ({}, ["later"])


async def test_quiet_ends_the_wait_for_a_slot(make_rig):
    bench = Bench(await make_rig(slots=1))
    await bench.rig.add("a", "b")
    async with bench.running() as task:
        await until(lambda: bench.started)
        bench.rig.lifecycle.quiet()
        bench.rig.lane.in_flight.poke()
        await soon(task)
    assert bench.rig.ready() == ["b"]


async def test_what_comes_with_the_last_read_is_handed_back(three):
    """The entry that was on its way when it became time to be quiet."""
    await three.rig.add("a")
    fetch = three.reader.fetch

    async def fetch_late(level, count):
        found = await fetch(level, count)
        three.rig.lifecycle.quiet()
        return found

    three.reader.fetch = fetch_late
    three.fetcher.next_order = lambda: ("normal", "low")
    await soon(three.fetcher.run())
    assert (three.started, three.released) == ([], ["a"])
    assert three.reader.asked == [("normal", 3)]
    await soon(three.settler.settle())
    assert three.rig.ready() == ["a"]


async def test_a_quiet_worker_does_not_listen_for_the_doorbell(three):
    """Told to end during a pass, it would otherwise take one more entry or wait for two seconds."""
    fetch = three.reader.fetch

    async def fetch_last(level, count):
        three.rig.lifecycle.quiet()
        return await fetch(level, count)

    three.reader.fetch = fetch_last
    await soon(three.fetcher.run())
    assert three.reader.waits == 0


async def test_a_read_is_a_sign_of_life(three):
    await three.fetcher.fetch_ready()
    first = three.rig.lane.last_poll
    assert first > 0
    await three.fetcher.fetch_ready()
    assert three.rig.lane.last_poll > first


async def test_what_was_fetched_is_told(three):
    await three.rig.add("a", "b")
    await three.fetcher.fetch_ready()
    assert three.rig.events.of(Fetched) == [Fetched("orders", 2)]
    three.rig.observers.routine = ()
    await three.rig.add("c")
    await three.fetcher.fetch_ready()
    assert len(three.rig.events.of(Fetched)) == 1


# --- burst


async def test_a_burst_ends_when_nothing_is_ready_and_nothing_of_ours_is_pending(make_rig):
    bench = Bench(await make_rig(slots=2), burst=True)
    await bench.rig.add(number=5)
    task = asyncio.ensure_future(bench.fetcher.run())
    for number in range(2, 6):
        await until(lambda: len(bench.started) >= number)  # noqa: B023
        bench.free(1 if number < 5 else 0)
    await turns(100)
    assert not task.done()
    bench.free()
    await soon(task)
    assert bench.reader.waits == 0


async def test_a_burst_on_an_empty_queue_ends_at_once(make_rig):
    bench = Bench(await make_rig(), burst=True)
    await soon(bench.fetcher.run())
    assert bench.started == []


async def test_a_burst_takes_what_is_due_and_leaves_what_is_due_later(make_rig):
    bench = Bench(await make_rig(), burst=True)
    await bench.rig.add("due", "later", delay_ms=3_600_000)
    bench.rig.raw("ZADD", bench.rig.keys.delayed, 1000, "due")
    task = asyncio.ensure_future(bench.fetcher.run())
    await until(lambda: bench.started)
    bench.free()
    await soon(task)
    assert bench.started == ["due"]
    assert list(bench.rig.delayed()) == ["later"]


async def test_a_burst_does_not_end_over_what_another_role_promoted(make_rig):
    """Promoted between the last pass and the question whether anything is due: it is ready now."""
    rig = await make_rig()
    bench = Bench(rig, burst=True)
    await rig.add("due", delay_ms=3_600_000)
    rig.raw("ZADD", rig.keys.delayed, 1000, "due")
    fetch, passes = bench.fetcher.fetch_ready, 0

    async def fetch_then_promote():
        nonlocal passes
        passes += 1
        found = await fetch()
        if passes == 1:
            assert (await rig.store.promote()).moved == 1
        return found

    bench.fetcher.fetch_ready = fetch_then_promote
    task = asyncio.ensure_future(bench.fetcher.run())
    await until(lambda: bench.started or task.done())
    assert bench.started == ["due"]
    bench.free()
    await soon(task)


async def test_a_burst_is_quiet_when_it_is_told_to(make_rig):
    bench = Bench(await make_rig(slots=1), burst=True)
    await bench.rig.add("a", "b")
    task = asyncio.ensure_future(bench.fetcher.run())
    await until(lambda: bench.started)
    bench.rig.lifecycle.quiet()
    bench.rig.lane.in_flight.poke()
    await soon(task)
    assert bench.rig.ready() == ["b"]
