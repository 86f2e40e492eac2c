"""What may kill its worker runs alone, marked, so that nothing else dies with it and everybody knows how it died."""

import asyncio

import pytest

from streamq.core.events import Settled, Started
from streamq.runtime import dispatcher as module
from tests.runtime import child
from tests.runtime.rig import OTHER, QUEUE, US, soon, turns


class Hand:
    """A handler that holds the messages it is asked to hold, and tells what ran beside what."""

    def __init__(self, rig, *, fails=()):
        self.rig, self.fails = rig, fails
        self.running, self.ran, self.go, self.tokens = set(), [], {}, {}
        self.began = asyncio.Event()

        @rig.app.handler(QUEUE, type="work")
        async def work(name: str):
            self.running.add(name)
            self.ran.append((name, set(self.running)))
            self.tokens[name] = rig.pending()[name][1]
            self.began.set()
            if name in self.go:
                await self.go[name].wait()
            self.running.discard(name)
            if name in self.fails:
                raise RuntimeError("broken")

    def hold(self, *names):
        for name in names:
            self.go[name] = asyncio.Event()

    async def deliver(self, name, **more):
        return await self.rig.deliver_one(name, payload=f'{{"type":"work","name":"{name}"}}', **more)


@pytest.fixture
async def hand(rig):
    return Hand(rig)


async def test_it_runs_marked_and_alone(hand):
    """Its delivery counter says that it was alone when it died; a success leaves nothing behind."""
    rig = hand.rig
    hand.hold("suspect", "innocent")
    dispatcher = rig.dispatcher()
    dispatcher.start(await hand.deliver("suspect", deliveries=2))
    await soon(hand.began.wait())
    dispatcher.start(await hand.deliver("innocent"))
    await turns()
    assert hand.running == {"suspect"}
    assert rig.pending()["suspect"] == (US, 1001)
    hand.go["innocent"].set()
    hand.go["suspect"].set()
    await rig.emptied()
    assert hand.ran == [("suspect", {"suspect"}), ("innocent", {"innocent"})]
    assert rig.is_empty()


async def test_it_waits_for_those_that_run(hand):
    rig = hand.rig
    hand.hold("innocent")
    dispatcher = rig.dispatcher()
    dispatcher.start(await hand.deliver("innocent"))
    await soon(hand.began.wait())
    dispatcher.start(await hand.deliver("suspect", deliveries=2))
    await turns()
    assert rig.pending()["suspect"] == (US, 1)
    hand.go["innocent"].set()
    await rig.emptied()
    assert hand.ran == [("innocent", {"innocent"}), ("suspect", {"suspect"})]


async def test_a_message_that_lost_one_worker_is_no_suspect(hand):
    rig = hand.rig
    hand.hold("a")
    dispatcher = rig.dispatcher()
    dispatcher.start(await hand.deliver("a", deliveries=1))
    await soon(hand.began.wait())
    assert rig.pending()["a"] == (US, 1)
    hand.go["a"].set()
    await rig.emptied()


async def test_a_failure_clears_it(rig):
    """It came to its end: whatever killed the workers, it was not this."""
    hand = Hand(rig, fails=["suspect"])
    await rig.run(rig.dispatcher(), await hand.deliver("suspect", deliveries=4))
    assert rig.waiting("suspect").items() >= {"deliveries": "0", "retry_count": "1"}.items()


async def test_patience_runs_out(make_rig):
    """Those that run get one lease to end; then it comes back in half a minute, its losses remembered."""
    rig = await make_rig(lease=0.05)
    hand = Hand(rig)
    hand.hold("innocent")
    dispatcher = rig.dispatcher()
    dispatcher.start(await hand.deliver("innocent"))
    await soon(hand.began.wait())
    dispatcher.start(await hand.deliver("suspect", deliveries=3))
    await rig.events.until(Settled)
    assert 29_000 < rig.delayed()["suspect"] <= 30_000
    assert rig.waiting("suspect")["deliveries"] == "3"
    assert rig.ledger()["suspect"] == 1
    hand.go["innocent"].set()
    await rig.emptied()
    assert [name for name, _ in hand.ran] == ["innocent"]


async def test_from_five_losses_on_it_waits_as_long_as_it_takes(make_rig, monkeypatch):
    """Otherwise a busy worker would put it off for ever."""
    asked = []
    rig = await make_rig(lease=0.05)
    alone = rig.isolation.alone
    monkeypatch.setattr(rig.isolation, "alone", lambda patience: asked.append(patience) or alone(patience))
    hand = Hand(rig)
    for name, losses in (("four", 4), ("five", 5), ("six", 6)):
        await rig.run(rig.dispatcher(), await hand.deliver(name, deliveries=losses))
    assert asked == [0.05, None, None]
    assert [name for name, _ in hand.ran] == ["four", "five", "six"]


async def test_one_that_was_put_off_for_long_waits_too(make_rig, monkeypatch):
    """However few workers it cost: five minutes after it was refused for the first time."""
    asked = []
    rig = await make_rig(lease=0.05)
    alone = rig.isolation.alone
    monkeypatch.setattr(rig.isolation, "alone", lambda patience: asked.append(patience) or alone(patience))
    hand = Hand(rig)
    for name, minutes in (("four", 4), ("six", 6)):
        since = rig.now_ms() - minutes * 60_000
        await rig.run(rig.dispatcher(), await hand.deliver(name, deliveries=2, held_since=since))
    assert asked == [0.05, None]


async def test_the_first_refusal_is_remembered(make_rig):
    rig = await make_rig(lease=0.05)
    Hand(rig)
    await soon(rig.isolation.enter())
    hand_over = '{"type":"work","name":"a"}'
    await rig.run(rig.dispatcher(), await rig.deliver_one("new", payload=hand_over, deliveries=2))
    since = rig.now_ms() - 60_000
    await rig.run(rig.dispatcher(), await rig.deliver_one("old", payload=hand_over, deliveries=2, held_since=since))
    assert abs(int(rig.waiting("new")["held_since"]) - rig.now_ms()) < 10_000
    assert rig.waiting("old")["held_since"] == str(since)


async def test_two_suspects_run_one_after_the_other(hand):
    rig = hand.rig
    dispatcher = rig.dispatcher()
    for name in ("one", "two"):
        dispatcher.start(await hand.deliver(name, deliveries=2))
    await rig.emptied()
    assert hand.ran == [("one", {"one"}), ("two", {"two"})]


async def test_one_that_is_not_ours_any_more_does_not_run(hand):
    """The mark is fenced."""
    rig = hand.rig
    suspect = await hand.deliver("suspect", deliveries=2)
    rig.take_away(suspect)
    await rig.run(rig.dispatcher(), suspect)
    assert hand.ran == []
    assert rig.pending()["suspect"] == (OTHER, 2)


async def test_the_mark_is_written_again_when_its_reply_is_lost(hand):
    rig = hand.rig
    suspect = await hand.deliver("suspect", deliveries=2)
    rig.wire.mute = 1
    await rig.run(rig.dispatcher(), suspect)
    assert hand.tokens == {"suspect": 1001}
    assert rig.ledger()["done"] == 1


async def test_a_beat_that_meets_the_mark_does_not_take_it_for_another_worker(hand, monkeypatch):
    """It asked for the old token, Redis had the new one already, and its answer came first."""
    rig = hand.rig
    dispatcher = rig.dispatcher()
    alone = rig.lane.store.alone

    async def beaten(consumer, delivery):
        token = await alone(consumer, delivery)
        dispatcher.lease_lost(delivery, delivery.token)
        return token

    monkeypatch.setattr(rig.lane.store, "alone", beaten)
    await rig.run(dispatcher, await hand.deliver("suspect", deliveries=2))
    assert hand.ran == [("suspect", {"suspect"})]
    assert rig.ledger()["done"] == 1


async def test_a_beat_that_knows_the_old_token_does_not_take_it_away(hand):
    """While the mark is written, the beat on its way says that the entry is lost: under its old token it is."""
    rig = hand.rig
    suspect = await hand.deliver("suspect", deliveries=2)
    rig.wire.gate = asyncio.Event()
    dispatcher = rig.dispatcher()
    dispatcher.start(suspect)
    await turns()
    dispatcher.lease_lost(suspect, 1)
    rig.wire.gate.set()
    await rig.emptied()
    assert rig.ledger()["done"] == 1


async def test_a_worker_that_became_quiet_meanwhile_does_not_begin_with_it(hand):
    rig = hand.rig
    suspect = await hand.deliver("suspect", deliveries=2)
    rig.wire.gate = asyncio.Event()
    dispatcher = rig.dispatcher()
    dispatcher.start(suspect)
    await turns()
    rig.lifecycle.quiet()
    dispatcher.release_unstarted()
    rig.wire.gate.set()
    await rig.emptied()
    assert hand.ran == []
    assert rig.ready() == ["suspect"]
    assert rig.entries()[0]["deliveries"] == "2"


async def test_a_worker_that_ends_gives_back_a_suspect_that_waits(hand):
    rig = hand.rig
    hand.hold("innocent")
    dispatcher = rig.dispatcher()
    dispatcher.start(await hand.deliver("innocent"))
    await soon(hand.began.wait())
    dispatcher.start(await hand.deliver("suspect", deliveries=2))
    await turns()
    dispatcher.release_unstarted()
    await rig.events.until(Settled)
    assert rig.ready() == ["suspect"]
    hand.go["innocent"].set()
    await rig.emptied()


async def test_one_that_is_cut_short_keeps_its_losses(hand):
    """Not those of the mark: the next worker knows how often it was really lost."""
    rig = hand.rig
    hand.hold("suspect")
    dispatcher = rig.dispatcher()
    dispatcher.start(await hand.deliver("suspect", deliveries=2))
    await soon(hand.began.wait())
    dispatcher.cancel_started()
    await rig.emptied()
    assert rig.ready() == ["suspect"]
    assert rig.entries()[0]["deliveries"] == "2"
    assert "alone" not in rig.entries()[0]


async def test_in_a_child_process_nothing_needs_to_pause(rig, tmp_path):
    """Its death takes nobody along, and is told by itself: no mark is needed."""
    rig.app.registry = child.app.registry
    await soon(rig.isolation.enter())
    rig.wire.sent.clear()
    suspect = await rig.deliver_one("a", payload=f'{{"type":"write","path":"{tmp_path / "out"}"}}', deliveries=2)
    dispatcher = rig.dispatcher()
    dispatcher.start(suspect)
    await asyncio.wait_for(rig.lane.in_flight.empty(), 20)
    assert (tmp_path / "out").exists()
    assert "alone" not in rig.wire.sent


def test_the_pause_of_the_interface():
    assert (module.SUSPECT_PAUSE_MS, module.PATIENT_FROM) == (30_000, 5)


async def test_a_suspect_that_starts_is_told_like_any_other(hand):
    rig = hand.rig
    await rig.run(rig.dispatcher(), await hand.deliver("suspect", deliveries=2))
    assert [event.message_id for event in rig.events.of(Started)] == ["suspect"]
