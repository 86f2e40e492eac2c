"""Entries of workers that vanished are found, wherever they lie, and given back to nobody who still lives."""

import asyncio
import time

import pytest

from streamq.core.events import Reclaimed
from streamq.runtime import reclaimer as module
from streamq.runtime.reclaimer import Reclaimer
from streamq.store.streams import NO_CURSORS
from tests.runtime.rig import OTHER, US, soon, turns, until

DEAD_FOR, ALIVE_FOR = 13_000, 11_000


class Bench:
    """A reclaimer and what it started."""

    def __init__(self, rig):
        self.rig, self.started = rig, []
        self.reclaimer = Reclaimer(rig.lane, start=self.start)

    def start(self, delivery):
        self.started.append(delivery)
        self.rig.lane.in_flight.take(delivery)

    def names(self):
        return [delivery.message_id for delivery in self.started]

    def free(self):
        for delivery in self.rig.lane.in_flight.deliveries():
            self.rig.lane.in_flight.drop(delivery)

    def calls(self):
        return self.rig.wire.sent.count("reclaim")


@pytest.fixture
async def bench(rig):
    return Bench(rig)


async def test_what_nobody_renewed_for_a_lease_is_taken_over(bench):
    rig = bench.rig
    orphan, kept = await rig.deliver("orphan", "kept", consumer=OTHER)
    rig.age(orphan, ms=31_000)
    rig.age(kept, ms=20_000)
    before = time.monotonic()
    assert await bench.reclaimer.sweep() == 1
    assert rig.pending() == {"orphan": (US, 2), "kept": (OTHER, 1)}
    (delivery,) = bench.started
    assert before <= delivery.proven_at <= time.monotonic()
    assert (delivery.message_id, delivery.token, delivery.losses) == ("orphan", 2, 1)
    assert rig.events.of(Reclaimed) == [Reclaimed("orders", 1, 0, 0)]


@pytest.mark.parametrize("level", ["critical", "high", "normal", "low"])
async def test_each_level_is_looked_at(bench, level):
    bench.rig.age(await bench.rig.deliver_one("orphan", level=level, consumer=OTHER))
    await bench.reclaimer.sweep()
    assert bench.names() == ["orphan"]
    assert bench.started[0].level == level


async def test_the_cursor_is_kept_over_pages(make_rig):
    """300 pending, the first 250 of them renewed: each call looks at a part only, and an empty page is not the end."""
    rig = await make_rig(slots=5)
    bench = Bench(rig)
    deliveries = await rig.deliver(number=300, consumer=OTHER)
    rig.age(*deliveries[250:])
    for _ in range(10):
        assert await bench.reclaimer.sweep() == 5
        bench.free()
    assert bench.names() == [delivery.message_id for delivery in deliveries[250:]]
    assert sum(holder == OTHER for holder, _ in rig.pending().values()) == 250
    assert bench.calls() < 25
    assert await bench.reclaimer.sweep() == 0


async def test_no_more_is_taken_than_there_are_slots(make_rig):
    rig = await make_rig(slots=3)
    bench = Bench(rig)
    rig.age(*await rig.deliver(number=10, consumer=OTHER))
    with rig.lane.in_flight.reserve(1):
        assert await bench.reclaimer.sweep() == 2
    assert len(rig.lane.in_flight) == 2
    assert sum(holder == US for holder, _ in rig.pending().values()) == 2


async def test_without_a_free_slot_redis_is_not_asked(make_rig):
    rig = await make_rig(slots=1)
    bench = Bench(rig)
    rig.age(await rig.deliver_one("orphan", consumer=OTHER))
    with rig.lane.in_flight.reserve(1):
        assert await bench.reclaimer.sweep() == 0
    assert bench.calls() == 0


async def test_a_page_is_bounded(make_rig, monkeypatch):
    """A call for more would block Redis for milliseconds."""
    asked = []
    rig = await make_rig(slots=120)
    reclaim = rig.store.reclaim

    async def spy(*args, **options):
        asked.append(options["count"])
        return await reclaim(*args, **options)

    monkeypatch.setattr(rig.store, "reclaim", spy)
    rig.age(*await rig.deliver(number=60, consumer=OTHER))
    assert await Bench(rig).reclaimer.sweep() == 60
    assert asked[0] == module.PAGE == 50


async def test_entries_of_a_silent_worker_are_taken_before_their_lease_ends(bench):
    rig = bench.rig
    await rig.deliver("orphan", consumer=OTHER)
    await rig.deliver("kept", consumer="third")
    rig.beaten(OTHER, DEAD_FOR)
    rig.beaten("third", ALIVE_FOR)
    bench.reclaimer.hint([OTHER, "third"])
    await bench.reclaimer.sweep()
    assert rig.pending() == {"orphan": (US, 2), "kept": ("third", 1)}


async def test_a_worker_that_came_back_keeps_its_entries(bench):
    """What the beat said is checked again in the step that takes."""
    rig = bench.rig
    await rig.deliver("kept", consumer=OTHER)
    rig.beaten(OTHER)
    bench.reclaimer.hint([OTHER])
    assert await bench.reclaimer.sweep() == 0
    assert rig.pending() == {"kept": (OTHER, 1)}


async def test_a_hint_is_followed_at_once_and_once(make_rig):
    """Not only when the quarter of the lease is over."""
    rig = await make_rig(lease=3600.0)
    bench = Bench(rig)
    await rig.deliver("orphan", consumer=OTHER)
    rig.beaten(OTHER, DEAD_FOR)
    task = rig.background(bench.reclaimer.run())
    await turns()
    assert bench.calls() == 0
    bench.reclaimer.hint([OTHER])
    await rig.events.until(Reclaimed)
    assert bench.names() == ["orphan"]
    calls = bench.calls()
    for _ in range(20):
        await rig.wire.execute("PING")
    assert bench.calls() <= calls + 1
    rig.lifecycle.quiet()
    await soon(task)


async def test_under_a_backlog_the_next_free_slot_is_for_orphans(make_rig):
    """Otherwise fetches would take every one."""
    rig = await make_rig(slots=2, lease=3600.0)
    bench = Bench(rig)
    for delivery in await rig.deliver("a", "b"):
        rig.lane.in_flight.take(delivery)
    await rig.deliver("orphan", consumer=OTHER)
    rig.beaten(OTHER, DEAD_FOR)
    task = rig.background(bench.reclaimer.run())
    bench.reclaimer.hint([OTHER])
    await until(lambda: rig.lane.in_flight.claimed)
    assert bench.calls() == 0
    rig.lane.in_flight.drop(rig.lane.in_flight.deliveries()[0])
    assert (rig.lane.in_flight.free, rig.lane.in_flight.fetchable) == (1, 0)
    await rig.events.until(Reclaimed)
    assert bench.names() == ["orphan"]
    rig.lifecycle.quiet()
    rig.lane.in_flight.poke()
    await soon(task)
    assert not rig.lane.in_flight.claimed


async def test_what_is_left_is_taken_when_there_is_room_again(make_rig):
    """Not at the next quarter of the lease."""
    rig = await make_rig(slots=1, lease=3600.0)
    bench = Bench(rig)
    await rig.deliver("one", "two", "three", consumer=OTHER)
    rig.beaten(OTHER, DEAD_FOR)
    task = rig.background(bench.reclaimer.run())
    bench.reclaimer.hint([OTHER])
    for number in (1, 2, 3):
        await until(lambda: len(bench.started) == number)  # noqa: B023
        bench.free()
    assert bench.names() == ["one", "two", "three"]
    rig.lifecycle.quiet()
    rig.lane.in_flight.poke()
    await soon(task)


async def test_no_silence_is_no_hint(bench):
    task = bench.rig.background(bench.reclaimer.run())
    bench.reclaimer.hint([])
    await turns(50)
    assert bench.calls() == 0
    bench.rig.lifecycle.quiet()
    await soon(task)


async def test_it_looks_by_itself_about_four_times_a_lease(make_rig, monkeypatch):
    rig = await make_rig(lease=8.0)
    pauses = []

    async def pause(seconds, *wakers):
        pauses.append(seconds)
        await asyncio.sleep(0)
        return len(pauses) > 200

    monkeypatch.setattr(rig.lifecycle, "pause", pause)
    await soon(Reclaimer(rig.lane, start=None).run())
    assert 1.5 <= min(pauses) < 1.7
    assert 2.3 < max(pauses) <= 2.5


async def test_after_an_outage_nobody_is_taken_for_dead(bench):
    """Nobody could speak: silence proves nothing. The answer is not asked for again and again."""
    rig = bench.rig
    rig.age(await rig.deliver_one("kept", consumer=OTHER))
    rig.raw("HSET", rig.keys.workers, "!seen", rig.now_ms() - 6000)
    bench.reclaimer._cursors = ("0-0", "0-0", "1-1", "0-0")  # not at the end of its round
    assert await bench.reclaimer.sweep() == 0
    assert rig.pending() == {"kept": (OTHER, 1)}
    assert bench.calls() == 1
    assert rig.events.of(Reclaimed) == []


async def test_what_may_kill_workers_waits_and_does_not_start(bench):
    rig = bench.rig
    suspect = await rig.deliver_one("suspect", consumer=OTHER, deliveries=1)
    rig.age(suspect)
    assert await bench.reclaimer.sweep() == 0
    assert bench.started == []
    assert rig.pending() == {}
    assert rig.waiting("suspect")["deliveries"] == "2"
    assert rig.events.of(Reclaimed) == [Reclaimed("orders", 0, 1, 0)]


async def test_what_lost_too_many_workers_is_dead(make_rig):
    rig = await make_rig(max_deliveries=3)
    bench = Bench(rig)
    rig.age(await rig.deliver_one("dead", consumer=OTHER, deliveries=2))
    assert await bench.reclaimer.sweep() == 0
    assert [letter["reason"] for letter in rig.letters()] == ["max_deliveries"]
    assert rig.events.of(Reclaimed) == [Reclaimed("orders", 0, 0, 1)]


async def test_it_goes_on_after_a_page_of_suspects(make_rig):
    """Work behind them is not held up until the next round."""
    rig = await make_rig(slots=2)
    bench = Bench(rig)
    for number in range(6):
        rig.age(await rig.deliver_one(f"s{number}", consumer=OTHER, deliveries=1))
    rig.age(await rig.deliver_one("orphan", consumer=OTHER))
    assert await bench.reclaimer.sweep() == 1
    assert bench.names() == ["orphan"]
    assert len(rig.delayed()) == 6


async def test_what_comes_back_while_it_runs_here_starts_nothing(bench):
    """Our own entry, after we were stopped for longer than its lease: only its token is new."""
    rig = bench.rig
    ours = await rig.deliver_one("ours")
    rig.lane.in_flight.take(ours)
    rig.age(ours)
    await bench.reclaimer.sweep()
    assert rig.lane.in_flight.deliveries() == [ours]
    assert (ours.token, rig.pending()) == (2, {"ours": (US, 2)})


async def test_a_quiet_worker_takes_nothing_over(bench):
    rig = bench.rig
    rig.age(await rig.deliver_one("kept", consumer=OTHER))
    rig.beaten(OTHER, DEAD_FOR)
    rig.lifecycle.quiet()
    bench.reclaimer.hint([OTHER])
    assert await bench.reclaimer.sweep() == 0
    await soon(bench.reclaimer.run())
    assert (bench.calls(), rig.pending()) == (0, {"kept": (OTHER, 1)})


async def test_the_cursors_begin_at_the_beginning(bench):
    assert bench.reclaimer._cursors == NO_CURSORS == ("0-0",) * 4
