"""What is due comes back in by the front door, page by page, unless the clock of Redis jumped."""

import pytest

from streamq.core.events import Noticed, Promoted
from streamq.runtime import promoter as module
from streamq.runtime.promoter import DISTRUST, LONGEST_PAUSE, Promoter
from streamq.testing.clock import VirtualClock
from tests.runtime.rig import soon

PAST = 1000  # ms since the epoch


async def delay(rig, number, due_ms=PAST):
    """Publish delayed messages, and let them be due."""
    ids = await rig.add(number=number, delay_ms=3_600_000)
    for member in ids:
        rig.raw("ZADD", rig.keys.delayed, due_ms, member)
    return ids


async def test_what_is_due_goes_to_its_stream(rig):
    ids = await delay(rig, 2)
    await rig.add("later", delay_ms=3_600_000)
    await Promoter(rig.lane).promote()
    assert rig.ready() == ids
    assert list(rig.delayed()) == ["later"]
    assert rig.events.of(Promoted) == [Promoted("orders", 2)]


async def test_a_full_page_is_followed_by_the_next_at_once(rig, monkeypatch):
    monkeypatch.setattr(module, "PAGE", 3)
    await delay(rig, 7)
    promoter = Promoter(rig.lane)
    assert [await promoter.promote(), await promoter.promote()] == [0.0, 0.0]
    assert await promoter.promote() == LONGEST_PAUSE
    assert len(rig.ready()) == 7
    assert [event.count for event in rig.events.of(Promoted)] == [3, 3, 1]


async def test_the_page_has_a_hundred(rig):
    await delay(rig, 101)
    await Promoter(rig.lane).promote()
    assert len(rig.ready()) == 100


async def test_a_page_of_unreadable_ones_is_full_too(rig, monkeypatch):
    monkeypatch.setattr(module, "PAGE", 2)
    for member in await delay(rig, 2):
        rig.raw("HSET", rig.keys.messages, member, "no netstring")
    assert await Promoter(rig.lane).promote() == 0.0
    assert [letter["reason"] for letter in rig.letters()] == ["malformed", "malformed"]
    (noticed,) = rig.events.of(Noticed)
    assert "2 delayed messages" in noticed.text


async def test_it_waits_until_the_next_is_due(rig):
    await rig.add("soon", delay_ms=800)
    assert 0.005 <= await Promoter(rig.lane).promote() <= 0.8


async def test_it_never_waits_longer_than_a_second(rig):
    """Somebody may publish what is due sooner than all the rest."""
    await rig.add("late", delay_ms=3_600_000)
    assert await Promoter(rig.lane).promote() == LONGEST_PAUSE == 1.0


async def test_nothing_waits(rig):
    assert await Promoter(rig.lane).promote() == LONGEST_PAUSE
    assert rig.events.all == []


async def test_a_clock_that_jumped_fires_nothing_until_it_is_believed(make_rig):
    """An hour ahead, everything would be due at once. What stays ahead is the time."""
    clock = VirtualClock()
    rig = await make_rig(clock=clock)
    promoter = Promoter(rig.lane)
    await promoter.promote()
    await delay(rig, 1)
    clock.advance(-3600)  # as if the clock of Redis had jumped ahead by an hour
    assert await promoter.promote() == DISTRUST == 10.0
    assert (rig.ready(), len(rig.delayed())) == ([], 1)
    assert len(rig.events.of(Noticed)) == 1
    await promoter.promote()
    assert len(rig.ready()) == 1


async def test_a_beat_that_hears_of_the_jump_first_does_not_hide_it(make_rig):
    """The guard is the promoter's own: beats come several times a second."""
    clock = VirtualClock()
    rig = await make_rig(clock=clock)
    promoter = Promoter(rig.lane)
    await promoter.promote()
    await delay(rig, 1)
    clock.advance(-3600)
    rig.lane.clock.heard(rig.now_ms())
    assert await promoter.promote() == DISTRUST
    assert rig.ready() == []


async def test_small_differences_are_no_jump(make_rig):
    clock = VirtualClock()
    rig = await make_rig(clock=clock)
    promoter = Promoter(rig.lane)
    await promoter.promote()
    await delay(rig, 1)
    clock.advance(-1.5)
    await promoter.promote()
    assert len(rig.ready()) == 1


async def test_a_request_that_was_long_on_its_way_is_no_jump(make_rig, monkeypatch):
    """A server that froze answers later than it was asked: nothing waits for its clock after that."""
    clock = VirtualClock()
    rig = await make_rig(clock=clock)
    promoter, promote = Promoter(rig.lane), rig.lane.store.promote
    await promoter.promote()
    await delay(rig, 1)

    async def late(**call):
        result = await promote(**call)
        clock.advance(30)
        return result

    clock.advance(-30)  # it is asked now, and answers 30 s later by both clocks
    monkeypatch.setattr(rig.lane.store, "promote", late)
    assert await promoter.promote() == 0.0
    monkeypatch.undo()
    assert rig.events.of(Noticed) == []
    await promoter.promote()
    assert len(rig.ready()) == 1


async def test_the_first_look_trusts_the_clock(make_rig):
    """There is nothing to compare it with."""
    rig = await make_rig(clock=VirtualClock())
    await delay(rig, 1)
    await Promoter(rig.lane).promote()
    assert len(rig.ready()) == 1


async def test_it_tells_the_others_what_time_it_is(make_rig):
    """Expiry is judged by the clock of Redis, not by this machine's."""
    rig = await make_rig(clock=VirtualClock(now=0.0))
    await Promoter(rig.lane).promote()
    assert abs(rig.lane.clock.now_ms() - rig.now_ms()) < 5000


async def test_what_nobody_watches_is_not_told(rig):
    rig.observers.routine = ()
    await delay(rig, 1)
    await Promoter(rig.lane).promote()
    assert rig.events.all == []


@pytest.mark.parametrize("levels", [("critical", "high", "normal", "low")])
async def test_each_goes_back_to_its_level(rig, levels):
    for level in levels:
        await rig.add(level, level=level, delay_ms=3_600_000)
        rig.raw("ZADD", rig.keys.delayed, PAST, level)
    await Promoter(rig.lane).promote()
    assert {level: rig.ready(level) for level in levels} == {level: [level] for level in levels}


async def test_it_promotes_until_the_worker_is_quiet(rig):
    await delay(rig, 1)
    task = rig.background(Promoter(rig.lane).run())
    await rig.events.until(Promoted)
    rig.lifecycle.quiet()
    await soon(task)
