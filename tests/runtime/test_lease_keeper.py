"""The beat keeps the leases whatever the event loop does, and tells what is not ours any more."""

import asyncio
import threading
import time

import pytest
import redis

from streamq.core.errors import RedisUnavailable
from streamq.core.message import Delivery
from streamq.runtime import lease_keeper as module
from streamq.runtime.lease_keeper import LeaseKeeper
from streamq.store.beats import Beat, BeatConnection
from streamq.store.url import parse_url
from streamq.testing.server import PrivateServer
from tests.runtime.rig import OTHER, US, Rig, Wire, soon, turns
from tests.support import server_binary

NOT_SOON = 3600.0


class Bench:
    """A keeper, and what it said on the event loop."""

    def __init__(self, rig, connection=None):
        self.rig, self.heard, self.failures, self.bugs = rig, [], [], []
        self.said = asyncio.Event()
        self.keeper = LeaseKeeper(
            [rig.lane],
            connection or BeatConnection(rig.wire),
            heard=lambda _, beat: self.hear(self.heard, beat),
            failed=lambda _, error: self.hear(self.failures, error),
            broke=lambda error: self.hear(self.bugs, error),
            about=lambda lane: f'{{"slots":{lane.in_flight.slots}}}',
        )

    def hear(self, where, what):
        where.append(what)
        self.said.set()

    async def until(self, condition):
        async def met():
            while not condition():
                self.said.clear()
                await self.said.wait()

        await soon(met())


class ByHand:
    """Instead of a connection: each beat waits until the test answers it."""

    def __init__(self):
        self.begun, self.answers = threading.Semaphore(0), []
        self.answered = threading.Semaphore(0)
        self.asked, self.closed = [], 0

    def extend(self, keys, group, consumer, *, lease_ms, silent_after_ms, deliveries, about=""):
        self.asked.append((list(deliveries), about))
        self.begun.release()
        assert self.answered.acquire(timeout=10)
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def answer(self, answer=None):
        self.answers.append(answer or Beat(1, [], []))
        self.answered.release()

    async def beat_begins(self):
        assert await asyncio.to_thread(self.begun.acquire, timeout=10)

    def close(self):
        self.closed += 1


@pytest.fixture
async def make_bench(make_rig):
    benches = []

    async def make(connection=None, **differences):
        bench = Bench(await make_rig(**differences), connection)
        benches.append(bench)
        return bench

    yield make
    for bench in benches:
        if bench.keeper._thread.is_alive():
            await bench.keeper.stop()


@pytest.fixture
async def by_hand(make_bench):
    """A keeper whose beats are answered by the test, one at a time and only when asked for."""
    hand = ByHand()
    bench = await make_bench(hand, lease=NOT_SOON, limits={"beat_interval": NOT_SOON})
    bench.hand = hand
    yield bench
    hand.answer()  # whatever beat still waits


def block_the_loop(seconds):
    """What a handler does that computes, or calls something that waits."""
    threading.Event().wait(seconds)


async def test_it_beats_while_the_event_loop_is_blocked(make_bench):
    """Longer than the lease: neither the entry nor our name is lost."""
    bench = await make_bench(lease=0.4)
    rig = bench.rig
    delivery = await rig.deliver_one("a")
    rig.lane.in_flight.take(delivery)
    bench.keeper.start()
    await soon(bench.keeper.renew(rig.lane))
    before = rig.raw("HGET", rig.keys.workers, US)
    block_the_loop(1.0)
    assert rig.idle_ms(delivery) < 700
    assert int(rig.raw("HGET", rig.keys.workers, US)) > int(before) + 300
    assert time.monotonic() - rig.lane.last_beat < 0.7


async def test_it_beats_with_nothing_in_flight(make_bench):
    """Whoever does not beat is taken for dead."""
    bench = await make_bench(lease=0.1)
    bench.keeper.start()
    await bench.until(lambda: len(bench.heard) >= 3)
    assert rig_knows(bench.rig)
    assert bench.failures == []


def rig_knows(rig):
    return rig.raw("HGET", rig.keys.workers, f"!about:{US}") == b'{"slots":5}'


async def test_a_renewal_is_not_a_loss(make_bench):
    bench = await make_bench()
    delivery = await bench.rig.deliver_one("a")
    bench.rig.lane.in_flight.take(delivery)
    bench.rig.age(delivery)
    bench.keeper.start()
    await soon(bench.keeper.renew(bench.rig.lane))
    assert bench.rig.pending() == {"a": (US, 1)}
    assert bench.rig.idle_ms(delivery) < 10_000
    assert delivery.proven_at == bench.rig.lane.last_beat


async def test_a_hung_handler_is_not_renewed_for_ever(make_bench, monkeypatch):
    """Until its deadline and the grace are over, and no longer: then somebody else may try."""
    monkeypatch.setattr(module, "GRACE", 5.0)
    bench = await make_bench()
    rig = bench.rig
    late, in_grace, running = await rig.deliver("late", "in grace", "running")
    now = time.monotonic()
    late.deadline, in_grace.deadline = now - 6, now - 1
    for delivery in (late, in_grace, running):
        rig.lane.in_flight.take(delivery)
        rig.age(delivery)
    bench.keeper.start()
    await soon(bench.keeper.renew(rig.lane))
    assert rig.idle_ms(late) > 3_000_000
    assert rig.idle_ms(in_grace) < 10_000
    assert rig.idle_ms(running) < 10_000
    assert bench.heard[0].lost == []


async def test_what_another_worker_owns_is_reported_and_left_alone(make_bench):
    bench = await make_bench()
    rig = bench.rig
    lost, kept = await rig.deliver("lost", "kept")
    for delivery in (lost, kept):
        rig.lane.in_flight.take(delivery)
    rig.take_away(lost)
    bench.keeper.start()
    await soon(bench.keeper.renew(rig.lane))
    assert bench.heard[0].lost == [(lost, 1)]
    assert rig.pending() == {"lost": (OTHER, 2), "kept": (US, 1)}


async def test_the_token_that_was_asked_about_is_told(by_hand):
    """Meanwhile the entry may have come back to us under another one, and then it is not lost."""
    delivery = Delivery("orders", "normal", "1-1", {}, 1, 0)
    held = by_hand.rig.lane.in_flight
    held.take(delivery)
    by_hand.keeper.start()
    await by_hand.hand.beat_begins()
    held.take(Delivery("orders", "normal", "1-1", {}, 2, 0))
    by_hand.hand.answer(Beat(1, [(delivery, 1)], []))
    await by_hand.until(lambda: by_hand.heard)
    assert by_hand.heard[0].lost == [(delivery, 1)]
    assert delivery.token == 2


async def test_who_is_silent_is_told(make_bench):
    bench = await make_bench()
    bench.rig.beaten(OTHER, 13_000)
    bench.rig.beaten("third", 11_000)
    bench.keeper.start()
    await soon(bench.keeper.renew(bench.rig.lane))
    assert bench.heard[0].silent == [OTHER]


async def test_renew_waits_for_a_beat_that_is_sent_after_the_call(by_hand):
    """What a beat on its way will say may be old by now."""
    by_hand.keeper.start()
    await by_hand.hand.beat_begins()
    renewed = asyncio.ensure_future(by_hand.keeper.renew(by_hand.rig.lane))
    await turns()
    by_hand.hand.answer()
    await by_hand.hand.beat_begins()
    await by_hand.until(lambda: len(by_hand.heard) == 1)
    await turns()
    assert not renewed.done()
    by_hand.hand.answer()
    await soon(renewed)
    assert len(by_hand.heard) == 2


async def test_renew_ends_after_the_news(by_hand):
    """When it returns, whoever is told of what was lost has been told."""
    by_hand.keeper.start()
    await by_hand.hand.beat_begins()
    by_hand.hand.answer()

    async def renew_and_look():
        await by_hand.keeper.renew(by_hand.rig.lane)
        return len(by_hand.heard)

    renewed = asyncio.ensure_future(renew_and_look())
    await by_hand.hand.beat_begins()
    by_hand.hand.answer()
    assert await soon(renewed) == 2


async def test_renew_waits_through_an_outage(by_hand, monkeypatch):
    """A beat that failed proves nothing."""
    monkeypatch.setattr(module, "RECONNECT", 0.0)
    by_hand.keeper.start()
    await by_hand.hand.beat_begins()
    by_hand.hand.answer()
    renewed = asyncio.ensure_future(by_hand.keeper.renew(by_hand.rig.lane))
    await by_hand.hand.beat_begins()
    by_hand.hand.answer(RedisUnavailable("down"))
    await by_hand.hand.beat_begins()
    assert not renewed.done()
    by_hand.hand.answer()
    await soon(renewed)
    assert [str(error) for error in by_hand.failures] == ["down"]


async def test_a_caller_that_is_cancelled_does_not_disturb_the_others(by_hand):
    by_hand.keeper.start()
    await by_hand.hand.beat_begins()
    first, second = (asyncio.ensure_future(by_hand.keeper.renew(by_hand.rig.lane)) for _ in range(2))
    await turns()
    first.cancel()
    by_hand.hand.answer()
    await by_hand.hand.beat_begins()
    by_hand.hand.answer()
    await soon(second)


async def test_what_we_can_do_is_told_once_and_again_after_an_outage(by_hand, monkeypatch):
    """The server that comes back may be an empty one."""
    monkeypatch.setattr(module, "RECONNECT", 0.0)
    by_hand.keeper.start()
    answers = (None, RedisUnavailable("down"), None, None)
    for number, answer in enumerate(answers):
        await by_hand.hand.beat_begins()
        if number != 1:  # after a failure it beats by itself
            by_hand.background = asyncio.ensure_future(by_hand.keeper.renew(by_hand.rig.lane))
        await turns()
        by_hand.hand.answer(answer)
        await by_hand.until(lambda: len(by_hand.heard) + len(by_hand.failures) == number + 1)  # noqa: B023
    assert [about != "" for _, about in by_hand.hand.asked[:4]] == [True, False, True, False]
    assert by_hand.hand.closed == 1


async def test_what_we_can_do_is_told_again_from_time_to_time(by_hand, monkeypatch):
    """Somebody may have deleted it, and no outage told us."""
    monkeypatch.setattr(module, "TELL_EVERY", 0.0)
    by_hand.keeper.start()
    for number in range(3):
        await by_hand.hand.beat_begins()
        by_hand.background = asyncio.ensure_future(by_hand.keeper.renew(by_hand.rig.lane))
        await turns()
        by_hand.hand.answer()
        await by_hand.until(lambda: len(by_hand.heard) == number + 1)  # noqa: B023
    assert all(about for _, about in by_hand.hand.asked[:3])


async def test_a_bug_is_told(by_hand):
    """A thread that ends without a word would cost every lease of this worker."""
    by_hand.keeper.start()
    await by_hand.hand.beat_begins()
    by_hand.hand.answer(TypeError("bug"))
    await by_hand.until(lambda: by_hand.bugs)
    assert [str(error) for error in by_hand.bugs] == ["bug"]


async def test_is_fresh(make_bench, monkeypatch):
    """For six seconds, or half a lease where that is shorter, a good beat proves that what we hold is ours."""
    bench = await make_bench(lease=30.0)
    lane = bench.rig.lane
    assert not bench.keeper.is_fresh(lane)
    lane.last_beat = time.monotonic() - 5
    assert bench.keeper.is_fresh(lane)
    lane.last_beat = time.monotonic() - 7
    assert not bench.keeper.is_fresh(lane)
    short = await make_bench(lease=4.0)
    short.rig.lane.last_beat = time.monotonic() - 2.5
    assert not short.keeper.is_fresh(short.rig.lane)


async def test_a_beat_counts_from_when_it_was_sent(by_hand):
    """Its answer may have been on its way for a second."""
    by_hand.keeper.start()
    await by_hand.hand.beat_begins()
    answered_at = time.monotonic()
    by_hand.hand.answer()
    await by_hand.until(lambda: by_hand.heard)
    assert by_hand.rig.lane.last_beat <= answered_at


async def test_a_beat_comes_often_enough_for_three_to_be_lost(make_bench):
    bench = await make_bench(lease=4.0)
    assert bench.rig.lane.beat_interval == 1.0
    assert (await make_bench(lease=30.0)).rig.lane.beat_interval == 2.5


async def test_stop_ends_the_thread(by_hand):
    by_hand.keeper.start()
    await by_hand.hand.beat_begins()
    by_hand.hand.answer()
    await soon(by_hand.keeper.stop())
    assert not by_hand.keeper._thread.is_alive()
    assert by_hand.hand.closed == 1


async def test_a_loop_that_is_gone_is_nobody_to_tell(by_hand):
    """The thread may still be at it when the process ends."""
    by_hand.keeper._loop = asyncio.new_event_loop()
    by_hand.keeper._loop.close()
    by_hand.keeper._on_loop(by_hand.bugs.append, "news")
    assert by_hand.bugs == []


async def test_it_reconnects_after_a_restart_of_the_server(monkeypatch):
    """Failures are told, the leases are kept again as soon as Redis is back."""
    monkeypatch.setattr(module, "RECONNECT", 0.02)
    with PrivateServer(server_binary("valkey-9.1")) as server, redis.Redis.from_url(server.url, protocol=2) as client:
        client.response_callbacks.clear()
        wire = Wire(parse_url(server.url))
        rig = Rig(wire, client.execute_command, lease=0.2)
        await rig.store.ensure()
        bench = Bench(rig)
        bench.keeper.start()
        await bench.until(lambda: bench.heard)
        server.stop()
        await bench.until(lambda: bench.failures)
        good = len(bench.heard)
        server.start()
        await bench.until(lambda: len(bench.heard) > good + 1)
        assert rig_knows(rig)
        await bench.keeper.stop()
        await wire.aclose()
