"""A handler that is stopped: at its time limit, because its lease was lost, or because the worker ends."""

import asyncio
import os
import threading

import pytest

from streamq import Drop
from streamq.core.events import LeaseLost, Noticed, Settled
from streamq.core.message import Delivery
from streamq.core.outcome import Release
from streamq.runtime import dispatcher as module
from streamq.runtime.deadlines import NEVER
from tests.runtime import child
from tests.runtime.rig import OTHER, QUEUE, US, soon, turns, until
from tests.support import wait_until


class Work:
    """A handler that tells when it began, and ends when it is told to."""

    def __init__(self, rig, executor="async", *, then=None, stubborn=False, **options):
        self.began, self.go, self.cancels, self.ran = asyncio.Event(), asyncio.Event(), 0, 0
        self.thread_go, self.loop = threading.Event(), asyncio.get_running_loop()
        self.then, self.stubborn = then, stubborn
        rig.app.handler(QUEUE, type="work", **options)(self.coroutine() if executor == "async" else self.function())

    def coroutine(self):
        async def work():
            self.ran += 1
            self.began.set()
            while True:
                try:
                    await self.go.wait()
                    break
                except asyncio.CancelledError:
                    self.cancels += 1
                    if not self.stubborn or self.cancels > 3:  # not even the end of the test should wait for it
                        raise
                    if self.stubborn == "once":
                        break
            self.end()

        return work

    def function(self):
        def work():
            self.ran += 1
            self.loop.call_soon_threadsafe(self.began.set)
            self.thread_go.wait(10)
            self.end()

        return work

    def end(self):
        if self.then is not None:
            raise self.then


@pytest.fixture
def grace(monkeypatch):
    """None to speak of."""
    monkeypatch.setattr(module, "GRACE", 0.01)


LIMIT = 0.02


# --- time limits


async def test_a_time_limit_ends_a_coroutine_and_is_a_failure_that_retries(rig):
    work = Work(rig, timeout=LIMIT)
    await rig.run(rig.dispatcher(), await rig.deliver_one("a"))
    assert work.cancels == 1
    assert rig.waiting("a")["retry_count"] == "1"
    (settled,) = rig.events.of(Settled)
    assert settled.outcome.error == "HandlerTimeout: work ran into its time limit of 0.02 s"
    assert rig.events.of(Noticed) == []


async def test_a_handler_that_ends_in_time_is_not_watched_any_more(rig):
    work = Work(rig, timeout=3600)
    dispatcher = rig.dispatcher()
    dispatcher.start(await rig.deliver_one("a"))
    await soon(work.began.wait())
    (run,) = dispatcher._runs.values()
    work.go.set()
    await rig.emptied()
    assert run.due == NEVER


async def test_the_last_time_limit_is_the_reason_of_the_dead_letter(rig):
    Work(rig, timeout=LIMIT)
    await rig.run(rig.dispatcher(), await rig.deliver_one("a", retry_count=3))
    assert [letter["reason"] for letter in rig.letters()] == ["timeout"]


@pytest.mark.parametrize("whose", ["message", "handler", "queue"])
async def test_the_smallest_limit_counts(make_rig, whose):
    rig = await make_rig(ack_timeout=LIMIT if whose == "queue" else 60.0)
    Work(rig, timeout=LIMIT if whose == "handler" else 60)
    metadata = f'{{"timeout":{20 if whose == "message" else 60_000}}}'
    await rig.run(rig.dispatcher(), await rig.deliver_one("a", metadata=metadata))
    assert rig.waiting("a")["retry_count"] == "1"


@pytest.mark.parametrize("then", [None, Drop(), ValueError("invalid")], ids=repr)
async def test_whoever_ran_into_its_limit_did_so_however_it_took_it(rig, then):
    """Returning early is not success, and an error made of the cancellation is not the cause."""
    Work(rig, timeout=LIMIT, stubborn="once", then=then)
    await rig.run(rig.dispatcher(), await rig.deliver_one("a", retry_count=3))
    assert [letter["reason"] for letter in rig.letters()] == ["timeout"]


async def test_a_handler_that_will_not_end_is_judged_and_keeps_its_slot(rig, grace):
    """The message goes its way; what still runs counts as running."""
    work = Work(rig, timeout=LIMIT, stubborn=True)
    delivery = await rig.deliver_one("a")
    rig.dispatcher().start(delivery)
    await rig.events.until(Settled)
    assert rig.waiting("a")["retry_count"] == "1"
    assert rig.pending() == {}
    assert rig.lane.in_flight.deliveries() == [delivery]
    (noticed,) = rig.events.of(Noticed)
    assert noticed.message_id == "a"
    assert "did not end" in noticed.text
    work.go.set()
    await rig.emptied()
    assert len(rig.events.of(Settled)) == 1
    assert rig.ledger() == {"accepted": 1, "retried": 1}


async def test_a_thread_cannot_be_stopped_and_says_so(rig, grace):
    """Judged after the grace; its slot stays taken until it ends, and what it says then is void."""
    work = Work(rig, "thread", timeout=LIMIT)
    delivery = await rig.deliver_one("a")
    rig.dispatcher().start(delivery)
    await rig.events.until(Settled)
    assert rig.waiting("a")["retry_count"] == "1"
    assert rig.lane.in_flight.free == 4
    first, second = rig.events.of(Noticed)
    assert "runs in a thread" in first.text
    assert "did not end" in second.text
    assert rig.executors.busy_threads == 1
    work.thread_go.set()
    await rig.emptied()
    assert rig.ledger() == {"accepted": 1, "retried": 1}
    assert rig.lane.in_flight.free == 5


async def test_a_thread_that_ends_within_the_grace_has_done_its_work(rig):
    work = Work(rig, "thread", timeout=LIMIT)
    rig.dispatcher().start(await rig.deliver_one("a"))
    await rig.events.until(Noticed)
    work.thread_go.set()
    await rig.emptied()
    assert rig.ledger() == {"accepted": 1, "done": 1}


async def test_a_thread_that_fails_within_the_grace_fails_by_its_own_error(rig):
    work = Work(rig, "thread", timeout=LIMIT, then=ValueError("invalid"))
    rig.dispatcher().start(await rig.deliver_one("a"))
    await rig.events.until(Noticed)
    work.thread_go.set()
    await rig.emptied()
    assert [letter["reason"] for letter in rig.letters()] == ["rejected"]


async def test_the_slot_is_free_only_when_both_are_over(rig, grace):
    """The thread may end before Redis has the outcome, too."""
    work = Work(rig, "thread", timeout=LIMIT)
    dispatcher = rig.dispatcher(settle=False)
    dispatcher.start(await rig.deliver_one("a"))
    await rig.events.until(Noticed, 2)
    work.thread_go.set()
    await until(lambda: not rig.executors.busy_threads)
    await turns()
    assert rig.lane.in_flight.free == 4
    await soon(dispatcher.settler.settle())
    assert rig.lane.in_flight.free == 5


async def test_a_time_limit_kills_a_child(rig, tmp_path):
    """And the message waits for its next attempt: the child did not die by itself."""
    rig.app.registry = child.app.registry
    place = tmp_path / "pid"
    dispatcher = rig.dispatcher()
    dispatcher.start(await rig.deliver_one("a", payload=f'{{"type":"hang","path":"{place}"}}'))
    await asyncio.to_thread(wait_until, place.exists, 20)
    (run,) = dispatcher._runs.values()
    dispatcher._time_is_up(run)
    await rig.emptied()
    assert rig.waiting("a")["retry_count"] == "1"
    (settled,) = rig.events.of(Settled)
    assert settled.outcome.error.startswith("HandlerTimeout: hang")
    with pytest.raises(ProcessLookupError):
        os.kill(int(place.read_text()), 0)


async def test_a_child_that_dies_leaves_a_suspect_and_the_second_one_poison(rig):
    rig.app.registry = child.app.registry
    dispatcher = rig.dispatcher()
    await rig.run(dispatcher, await rig.deliver_one("a", payload='{"type":"die"}'))
    assert rig.waiting("a").items() >= {"alone": "1", "deliveries": "2", "retry_count": "0"}.items()
    assert rig.ledger()["suspect"] == 1
    await rig.run(dispatcher, await rig.deliver_one("b", payload='{"type":"die"}', alone=1, deliveries=2))
    (letter,) = rig.letters()
    assert letter["reason"] == "poison"
    assert letter["error"].startswith("WorkerDied: the child process that ran the handler was killed by SIGKILL")


# --- leases


async def lose(rig, dispatcher, delivery):
    """Another worker takes the entry over, and a beat says so."""
    token = delivery.token
    rig.take_away(delivery)
    dispatcher.lease_lost(delivery, token)


async def test_a_lost_lease_cancels_the_handler_and_its_failure_is_void(rig):
    work = Work(rig)
    dispatcher, delivery = rig.dispatcher(), await rig.deliver_one("a")
    dispatcher.start(delivery)
    await soon(work.began.wait())
    await lose(rig, dispatcher, delivery)
    await rig.emptied()
    assert work.cancels == 1
    assert rig.pending() == {"a": (OTHER, 2)}
    assert rig.ledger() == {"accepted": 1}
    assert rig.events.of(LeaseLost) == [LeaseLost(QUEUE, "a")]
    assert rig.events.of(Settled) == []


async def test_a_cancelled_handler_that_returns_has_not_done_its_work(rig):
    """Acknowledging would take the message away from the worker that runs it now."""
    work = Work(rig, stubborn="once")
    dispatcher, delivery = rig.dispatcher(), await rig.deliver_one("a")
    dispatcher.start(delivery)
    await soon(work.began.wait())
    await lose(rig, dispatcher, delivery)
    await rig.emptied()
    assert rig.pending() == {"a": (OTHER, 2)}


async def test_a_threads_success_counts_although_its_lease_was_lost(rig):
    """Nothing could stop it, so the work is done."""
    work = Work(rig, "thread")
    dispatcher, delivery = rig.dispatcher(), await rig.deliver_one("a")
    dispatcher.start(delivery)
    await soon(work.began.wait())
    await lose(rig, dispatcher, delivery)
    assert len(rig.lane.in_flight) == 1
    work.thread_go.set()
    await rig.emptied()
    assert rig.is_empty()
    assert rig.ledger() == {"accepted": 1, "done": 1}


async def test_a_threads_failure_is_void_when_its_lease_was_lost(rig):
    work = Work(rig, "thread", then=RuntimeError("broken"))
    dispatcher, delivery = rig.dispatcher(), await rig.deliver_one("a")
    dispatcher.start(delivery)
    await soon(work.began.wait())
    await lose(rig, dispatcher, delivery)
    work.thread_go.set()
    await rig.emptied()
    assert rig.pending() == {"a": (OTHER, 2)}
    assert rig.ledger() == {"accepted": 1}


async def test_news_about_an_older_token_are_old(rig):
    """The entry came back to us while the beat was on its way."""
    work = Work(rig)
    dispatcher, delivery = rig.dispatcher(), await rig.deliver_one("a")
    dispatcher.start(delivery)
    await soon(work.began.wait())
    rig.take_away(delivery, consumer=US)
    dispatcher.start(Delivery(QUEUE, "normal", delivery.entry_id, delivery.fields, 2, 1))
    dispatcher.lease_lost(delivery, 1)
    assert not delivery.lost
    work.go.set()
    await rig.emptied()
    assert rig.ledger()["done"] == 1


async def test_a_lost_lease_is_told_once(rig):
    """Each beat says it again until the handler has ended."""
    work = Work(rig, "thread")
    dispatcher, delivery = rig.dispatcher(), await rig.deliver_one("a")
    dispatcher.start(delivery)
    await soon(work.began.wait())
    await lose(rig, dispatcher, delivery)
    dispatcher.lease_lost(delivery, 1)
    assert len(rig.events.of(LeaseLost)) == 1
    work.thread_go.set()
    await rig.emptied()


async def test_what_is_just_being_settled_keeps_its_outcome(rig):
    work = Work(rig)
    dispatcher, delivery = rig.dispatcher(), await rig.deliver_one("a")
    rig.wire.gate = asyncio.Event()
    dispatcher.start(delivery)
    work.go.set()
    await turns()
    dispatcher.lease_lost(delivery, 1)
    assert not delivery.lost
    rig.wire.gate.set()
    await rig.emptied()
    assert rig.ledger()["done"] == 1


async def test_news_about_what_has_ended_are_nothing(rig):
    dispatcher, delivery = rig.dispatcher(), await rig.deliver_one("a")
    dispatcher.lease_lost(delivery, 1)
    assert rig.events.all == []


async def test_what_is_lost_while_it_waits_for_its_turn_does_not_start(rig):
    work = Work(rig)
    dispatcher, delivery = rig.dispatcher(), await rig.deliver_one("a")
    async with rig.isolation.alone(None):
        dispatcher.start(delivery)
        await turns()
        await lose(rig, dispatcher, delivery)
        await rig.emptied()
    assert work.ran == 0
    assert rig.pending() == {"a": (OTHER, 2)}


async def test_what_was_lost_and_came_back_is_released_without_an_attempt(rig):
    """Its handler was cancelled for nothing: that is no failure of the message."""
    work = Work(rig)
    dispatcher, delivery = rig.dispatcher(), await rig.deliver_one("a")
    dispatcher.start(delivery)
    await soon(work.began.wait())
    await lose(rig, dispatcher, delivery)
    rig.take_away(delivery, consumer=US)
    dispatcher.start(Delivery(QUEUE, "normal", delivery.entry_id, delivery.fields, 3, 1))
    await rig.emptied()
    assert work.ran == 1
    assert rig.ready() == ["a"]
    assert rig.entries()[0].get("retry_count", "0") == "0"


# --- the worker's end


async def test_what_has_not_begun_goes_back(rig):
    """Whether it waits for its turn, for the proof of its lease, or has not made a step."""
    work = Work(rig)
    dispatcher = rig.dispatcher()
    at_gate, unproven, fresh, running = await rig.deliver("at_gate", "unproven", "fresh", "running")
    dispatcher.start(running)
    await soon(work.began.wait())
    rig.fresh, rig.when_renewed = False, asyncio.Event().wait
    dispatcher.start(unproven)
    await turns()
    rig.isolation._open.clear()
    dispatcher.start(at_gate)
    await turns()
    dispatcher.start(fresh)
    dispatcher.release_unstarted()
    await rig.events.until(Settled, 3)
    assert sorted(rig.ready()) == ["at_gate", "fresh", "unproven"]
    assert [entry.get("retry_count", "0") for entry in rig.entries()] == ["0"] * 4
    assert rig.lane.in_flight.deliveries() == [running]
    assert work.cancels == 0
    rig.isolation._open.set()
    work.go.set()
    await rig.emptied()
    assert rig.ledger() == {"accepted": 4, "released": 3, "done": 1}


@pytest.mark.parametrize("stubborn", [False, "once"])
async def test_what_is_cut_short_goes_back_without_an_attempt(rig, stubborn):
    work = Work(rig, stubborn=stubborn)
    dispatcher = rig.dispatcher()
    dispatcher.start(await rig.deliver_one("a", retry_count=1))
    await soon(work.began.wait())
    assert dispatcher.cancel_started() == 1
    await rig.emptied()
    assert rig.ready() == ["a"]
    assert rig.entries()[0]["retry_count"] == "1"
    assert [event.outcome for event in rig.events.of(Settled)] == [Release()]


async def test_a_thread_that_is_cut_short_is_given_back_while_it_still_runs(rig):
    work = Work(rig, "thread")
    dispatcher = rig.dispatcher()
    dispatcher.start(await rig.deliver_one("a"))
    await soon(work.began.wait())
    assert dispatcher.cancel_started() == 1
    await soon(dispatcher.told())
    assert rig.executors.busy_threads == 1
    assert rig.ready() == ["a"]
    work.thread_go.set()
    await rig.emptied()
    assert rig.ledger() == {"accepted": 1, "released": 1}


async def test_a_thread_that_was_given_back_before_it_began_does_not_begin(rig):
    """A suspect counts as begun while it is marked and its lease proven."""
    work, proven = Work(rig, "thread"), asyncio.Event()
    dispatcher = rig.dispatcher()
    rig.fresh, rig.when_renewed = False, proven.wait
    dispatcher.start(await rig.deliver_one("a", deliveries=2))
    await until(lambda: rig.renewals)
    dispatcher.cancel_started()
    await soon(dispatcher.told())
    proven.set()
    await rig.emptied()
    assert work.ran == 0
    assert rig.ready() == ["a"]


async def test_what_will_not_end_is_given_back_in_the_end(rig):
    """The last resort of a worker that must go: as with a thread, another one runs it."""
    work = Work(rig, stubborn=True)
    dispatcher = rig.dispatcher()
    dispatcher.start(await rig.deliver_one("a"))
    await soon(work.began.wait())
    assert dispatcher.cancel_started() == 1
    await turns()
    assert rig.pending() == {"a": (US, 1)}
    dispatcher.give_back()
    await rig.events.until(Settled)
    assert rig.ready() == ["a"]
    work.go.set()
    await rig.emptied()
    assert rig.ledger() == {"accepted": 1, "released": 1}


async def test_a_child_that_is_cut_short_is_killed_and_its_message_goes_back(rig, tmp_path):
    rig.app.registry = child.app.registry
    place = tmp_path / "pid"
    dispatcher = rig.dispatcher()
    dispatcher.start(await rig.deliver_one("a", payload=f'{{"type":"hang","path":"{place}"}}'))
    await asyncio.to_thread(wait_until, place.exists, 20)
    assert dispatcher.cancel_started() == 1
    await rig.emptied()
    assert rig.ready() == ["a"]
    with pytest.raises(ProcessLookupError):
        os.kill(int(place.read_text()), 0)


async def test_what_is_being_settled_is_not_cut_short(rig):
    work = Work(rig)
    dispatcher = rig.dispatcher(settle=False)
    dispatcher.start(await rig.deliver_one("a"))
    work.go.set()
    await turns()
    assert dispatcher.cancel_started() == 0
    await soon(dispatcher.settler.settle())
    assert rig.ledger()["done"] == 1


async def test_a_loop_that_is_being_closed_may_cancel(rig):
    """That is nobody's outcome: the entry is left for others."""
    work = Work(rig)
    dispatcher, delivery = rig.dispatcher(), await rig.deliver_one("a")
    dispatcher.start(delivery)
    await soon(work.began.wait())
    (run,) = dispatcher._runs.values()
    run.task.cancel()
    await asyncio.wait([run.task])
    assert run.task.cancelled()
    assert rig.pending() == {"a": (US, 1)}
    assert (rig.bugs, rig.events.of(Settled)) == ([], [])
