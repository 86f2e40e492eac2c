"""What may kill its worker runs alone, marked, so that nothing else dies with it and everybody knows how it died."""

import asyncio
import contextlib
import json
import os

import pytest

from streamq.core.events import Noticed, Settled, Started
from streamq.runtime import suspects as module
from streamq.runtime.children import Child
from streamq.runtime.dispatcher import DYING_TOGETHER
from streamq.runtime.lifecycle import Lifecycle
from tests.runtime import child
from tests.runtime.rig import OTHER, QUEUE, US, soon, turns, until


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


@pytest.mark.parametrize("losses", [2, 5])
@pytest.mark.parametrize("first", ["runs", "waits for others to end"])
async def test_while_one_has_its_turn_the_others_do_not_wait_beside_it(hand, first, losses):
    """They would be lost with this worker: they come back in a second, and that is no loss of theirs."""
    rig = hand.rig
    hand.hold("innocent", "one")
    dispatcher = rig.dispatcher()
    if first == "waits for others to end":
        dispatcher.start(await hand.deliver("innocent"))
        await soon(hand.began.wait())
    dispatcher.start(await hand.deliver("one", deliveries=2))
    await turns()
    dispatcher.start(await hand.deliver("two", deliveries=losses, alone=1))
    await rig.events.until(Settled, message_id="two")
    assert 0 < rig.delayed()["two"] <= 1000
    assert rig.waiting("two").items() >= {"deliveries": str(losses), "alone": "1"}.items()
    hand.go["innocent"].set()
    hand.go["one"].set()
    await rig.emptied()
    assert "two" not in [name for name, _ in hand.ran]


@pytest.mark.parametrize("reply", ["comes", "is lost"])
async def test_a_worker_that_is_told_to_end_takes_the_mark_off(hand, reply):
    """Whoever ends a service kills what does not end in time: that is no death of the message's doing."""
    rig = hand.rig
    hand.hold("suspect")
    dispatcher = rig.dispatcher()
    dispatcher.start(await hand.deliver("suspect", deliveries=2))
    await soon(hand.began.wait())
    rig.wire.mute = int(reply == "is lost")
    rig.lifecycle.quiet()
    await until(lambda: rig.pending()["suspect"] == (US, 1))
    hand.go["suspect"].set()
    await rig.emptied()
    assert rig.ledger()["done"] == 1


async def test_its_failure_is_written_under_the_token_without_the_mark(rig, monkeypatch):
    """The outcome waits for the reply: sent with the old token it would be refused."""
    hand = Hand(rig, fails=["suspect"])
    hand.hold("suspect")
    alone, reply = rig.lane.store.alone, asyncio.Event()

    async def late(consumer, delivery, *, marked):
        token = await alone(consumer, delivery, marked=marked)
        if not marked:
            await reply.wait()
        return token

    monkeypatch.setattr(rig.lane.store, "alone", late)
    dispatcher = rig.dispatcher()
    dispatcher.start(await hand.deliver("suspect", deliveries=2))
    await soon(hand.began.wait())
    rig.lifecycle.quiet()
    await until(lambda: rig.pending()["suspect"] == (US, 1))
    hand.go["suspect"].set()
    await turns()
    reply.set()
    await rig.emptied()
    assert rig.waiting("suspect")["retry_count"] == "1"
    assert "fenced" not in rig.ledger()


@pytest.mark.parametrize("warned", [True, False])
async def test_a_deploy_that_kills_convicts_nobody(hand, warned):
    """Told to end and then killed with a suspect alone in it, as often as you like; without a warning, twice."""
    rig = hand.rig
    hand.hold("suspect")
    await rig.add("suspect", payload='{"type":"work","name":"suspect"}', deliveries=2)
    for _ in range(2):
        (delivery,) = rig.fetch()
        hand.began.clear()
        hand.rig.lifecycle = rig.lane.lifecycle = Lifecycle()
        dispatcher = rig.dispatcher()
        dispatcher.start(delivery)
        await soon(hand.began.wait())
        if warned:
            rig.lifecycle.quiet()
            await until(lambda: rig.pending()["suspect"] == (US, 1))
        for task in dispatcher.abort():  # nothing that it does reaches Redis any more
            with contextlib.suppress(asyncio.CancelledError):
                await task
        rig.age(delivery)
        await rig.store.reclaim(OTHER, lease_ms=60_000, count=9, silent_after_ms=60_000, max_deliveries=20)
        rig.lane.in_flight.drop(delivery)
        for member in rig.delayed():
            rig.raw("ZADD", rig.keys.delayed, 1, member)
        await rig.store.promote()
    assert [letter["reason"] for letter in rig.letters()] == ([] if warned else ["poison"])


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

    async def beaten(consumer, delivery, *, marked):
        token = await alone(consumer, delivery, marked=marked)
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


def test_the_pauses_of_the_interface():
    assert (module.SUSPECT_PAUSE_MS, module.TURN_PAUSE_MS, module.PATIENT_FROM) == (30_000, 1_000, 5)


# --- in a process of its own


@pytest.fixture
async def solo(rig, tmp_path):
    """A rig whose app can be started in a child process, and the file that its handlers write."""
    rig.app.registry = child.suspects.registry
    rig.place = tmp_path / "out"
    rig.ask = lambda kind, **more: json.dumps({"type": kind, "path": str(rig.place), **more})
    return rig


async def test_a_process_of_its_own_needs_no_mark_and_nothing_pauses(solo):
    rig = solo
    await soon(rig.isolation.enter())
    dispatcher = rig.dispatcher(suspects=child.serve)
    rig.wire.sent.clear()
    await rig.run(dispatcher, await rig.deliver_one("a", payload=rig.ask("work"), deliveries=2))
    assert int(rig.place.read_text()) != os.getpid()
    assert "alone" not in rig.wire.sent
    assert rig.ledger()["done"] == 1


async def test_there_are_only_so_many_apps_at_once(solo, monkeypatch):
    """A hundred neighbours of one poison would take all memory, and then be taken for it. Nothing is counted."""
    rig = solo
    monkeypatch.setattr(module, "MOST_APPS", 1)
    dispatcher = rig.dispatcher(suspects=child.serve)
    dispatcher.start(await rig.deliver_one("a", payload=rig.ask("hold_thread"), deliveries=2))
    await until(rig.place.exists)
    dispatcher.start(await rig.deliver_one("b", payload=rig.ask("work"), deliveries=3, alone=1))
    await rig.events.until(Settled, message_id="b")
    assert 0 < rig.delayed()["b"] <= 1000
    assert rig.waiting("b").items() >= {"deliveries": "3", "alone": "1"}.items()
    dispatcher.cancel_started()
    await rig.emptied()
    assert rig.executors.apps == 0


async def test_an_app_that_still_leaves_counts_among_them(solo, monkeypatch):
    """Quick suspects with a slow lifespan would heap up processes otherwise."""
    rig, left = solo, asyncio.Event()
    monkeypatch.setattr(module, "MOST_APPS", 1)

    class Leaving:
        async def end(self, patience):
            await left.wait()

    rig.executors.let_go(Leaving())
    suspect = await rig.deliver_one("a", payload=rig.ask("work"), deliveries=2)
    await rig.run(rig.dispatcher(suspects=child.serve), suspect)
    left.set()
    assert 0 < rig.delayed()["a"] <= 1000


async def test_from_five_losses_on_it_runs_alone_there_too(solo):
    """No child saved the last workers: it eats the memory of all, or kills its parent."""
    rig = solo
    await soon(rig.isolation.enter())
    dispatcher = rig.dispatcher(suspects=child.serve)
    dispatcher.start(await rig.deliver_one("a", payload=rig.ask("hold_thread"), deliveries=5))
    await until(lambda: rig.isolation.taken)
    assert rig.pending()["a"] == (US, 1)
    rig.isolation.leave()
    await until(rig.place.exists)
    assert rig.pending()["a"] == (US, 1001)
    dispatcher.cancel_started()
    await rig.emptied()
    assert rig.entries()[0]["deliveries"] == "5"


async def test_no_app_is_started_for_one_whose_turn_it_is_not(solo, monkeypatch):
    """It would cost its start-up only to be put off."""
    rig, started = solo, []
    dispatcher = rig.dispatcher(suspects=child.serve)
    dispatcher.start(await rig.deliver_one("a", payload=rig.ask("hold_thread"), deliveries=5))
    await until(rig.place.exists)
    monkeypatch.setattr(Child, "start", started.append)
    dispatcher.start(await rig.deliver_one("b", payload=rig.ask("work"), deliveries=5))
    await rig.events.until(Settled, message_id="b")
    assert 0 < rig.delayed()["b"] <= 1000
    assert not started
    dispatcher.cancel_started()
    await rig.emptied()


async def test_an_executor_process_gets_a_fresh_one_and_from_five_losses_on_the_mark(rig, tmp_path):
    rig.app.registry = child.app.registry
    payload = json.dumps({"type": "write", "path": str(tmp_path / "out")})
    dispatcher, pids, marks = rig.dispatcher(), [], []
    for losses in (0, 2, 5, 0):
        rig.wire.sent.clear()
        await rig.run(dispatcher, await rig.deliver_one(payload=payload, deliveries=losses))
        pids.append((tmp_path / "out").read_text())
        marks.append("alone" in rig.wire.sent)
    assert pids[0] == pids[3]
    assert len(set(pids)) == 3
    assert marks == [False, False, True, False]


async def test_where_the_app_cannot_be_there_twice_it_runs_alone_in_the_worker(solo):
    rig = solo
    dispatcher = rig.dispatcher(suspects=child.raises)
    await rig.run(dispatcher, await rig.deliver_one("a", payload=rig.ask("work"), deliveries=2))
    assert int(rig.place.read_text()) == os.getpid()
    assert "alone" in rig.wire.sent
    (noticed,) = rig.events.of(Noticed)
    assert "LookupError: there is one already" in noticed.text


async def test_a_handler_that_does_not_want_one_gets_none(solo):
    rig = solo
    dispatcher = rig.dispatcher(suspects=child.raises)
    await rig.run(dispatcher, await rig.deliver_one("a", payload=rig.ask("here"), deliveries=2))
    assert int(rig.place.read_text()) == os.getpid()
    assert rig.events.of(Noticed) == []


async def test_an_app_that_has_changed_meanwhile_holds_the_message(solo):
    rig = solo
    dispatcher = rig.dispatcher(suspects=child.serve_another_app)
    await rig.run(dispatcher, await rig.deliver_one("a", payload=rig.ask("work"), deliveries=2, alone=1))
    assert rig.waiting("a").items() >= {"deliveries": "2", "alone": "1", "retry_count": "0"}.items()
    assert rig.ledger()["held"] == 1


async def test_a_thread_there_can_be_stopped(solo):
    """A time limit ends it at once; in the worker it would keep its slot."""
    rig = solo
    dispatcher = rig.dispatcher(suspects=child.serve)
    metadata = '{"timeout":500}'
    suspect = await rig.deliver_one("a", payload=rig.ask("hold_thread"), deliveries=2, metadata=metadata)
    await rig.run(dispatcher, suspect)
    assert rig.waiting("a").items() >= {"deliveries": "0", "retry_count": "1"}.items()
    with pytest.raises(ProcessLookupError):
        os.kill(int(rig.place.read_text()), 0)


@pytest.mark.parametrize("told", ["before", "just after", "never"])
async def test_a_death_is_a_verdict_only_of_a_worker_that_lives_on(solo, told, monkeypatch):
    """Whoever ends a service may kill its processes in any order."""
    rig = solo
    dispatcher = rig.dispatcher(suspects=child.serve)
    pause = rig.lifecycle.pause

    async def paused(seconds):
        assert seconds == DYING_TOGETHER
        if told == "just after":
            rig.lifecycle.quiet()
        return await pause(0 if told == "never" else seconds)

    monkeypatch.setattr(rig.lifecycle, "pause", paused)
    suspect = await rig.deliver_one("a", payload=rig.ask("work", dies=True), deliveries=2, alone=1)
    if told == "before":
        rig.lifecycle.quiet()
    await rig.run(dispatcher, suspect)
    if told == "never":
        (letter,) = rig.letters()
        assert letter["reason"] == "poison"
        assert letter["error"] == "WorkerDied: the child process that ran the handler exited with code 9"
        assert letter["fingerprint"] == "WorkerDied"
    else:
        assert rig.entries()[0].items() >= {"deliveries": "2", "alone": "1"}.items()
        assert rig.ready() == ["a"]


async def test_a_suspect_that_starts_is_told_like_any_other(hand):
    rig = hand.rig
    await rig.run(rig.dispatcher(), await hand.deliver("suspect", deliveries=2))
    assert [event.message_id for event in rig.events.of(Started)] == ["suspect"]
