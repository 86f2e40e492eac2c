"""Outcomes go out together, are repeated until Redis has them, and are said to be void where the lease was lost."""

import asyncio

import pytest

from streamq.core.events import RedisUnavailable as Outage
from streamq.core.events import Settled
from streamq.core.outcome import Ack, DeadLetter, Reason, Release, Retry, Wait
from streamq.runtime import settler as module
from streamq.runtime import supervisor
from streamq.runtime.settler import Verdict
from streamq.store.outages import RedisRefused
from tests.runtime.rig import OTHER, US, soon, turns, until

DEAD = DeadLetter(Reason.REJECTED, "no", "trace", "place", 2)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(supervisor, "reconnect_delay", lambda failures: 0.0)


async def test_acknowledgements_of_one_turn_are_one_call(rig):
    settler, settled = rig.settler()
    deliveries = await rig.deliver("a", "b", "c")
    rig.background(settler.run())
    await asyncio.sleep(0)
    for delivery in deliveries:
        settler.put(Verdict(delivery, Ack()))
    await rig.events.until(Settled, 3)
    assert rig.wire.sent == ["publish", "ack"]
    assert settled == deliveries
    assert rig.is_empty()
    assert rig.ledger()["done"] == 3


async def test_what_falls_due_during_a_call_waits_for_the_next(rig):
    """Under load the batches grow by themselves."""
    settler, _ = rig.settler()
    first, *others = await rig.deliver(number=4)
    rig.wire.sent.clear()
    rig.wire.gate = asyncio.Event()
    settler.put(Verdict(first, Ack()))
    settling = asyncio.ensure_future(settler.settle())
    await until(lambda: rig.wire.sent)
    for delivery in others:
        settler.put(Verdict(delivery, Ack()))
    rig.wire.gate.set()
    await soon(settling)
    assert rig.wire.sent == ["ack", "ack"]
    assert rig.is_empty()


async def test_empty_waits_until_redis_has_every_outcome(rig):
    """Also of what never had a slot."""
    settler, _ = rig.settler()
    delivery = await rig.deliver_one("a")
    rig.wire.gate = asyncio.Event()
    await soon(settler.empty())
    settler.put(Verdict(delivery, Release()))
    settling, empty = (asyncio.ensure_future(wait) for wait in (settler.settle(), settler.empty()))
    await turns()
    assert not empty.done()
    rig.wire.gate.set()
    await soon(empty)
    await soon(settling)
    assert rig.ready() == ["a"]


@pytest.mark.parametrize(
    ("outcome", "limit"),
    [
        (Ack(), "BATCH"),
        (Ack(dropped=True), "BATCH"),
        (Retry(Wait.RETRIED, 5000), "HEAVY_BATCH"),
        (DEAD, "HEAVY_BATCH"),
        (Release(), "HEAVY_BATCH"),
    ],
)
async def test_a_call_is_bounded(rig, monkeypatch, outcome, limit):
    monkeypatch.setattr(module, limit, 2)
    settler, settled = rig.settler()
    for delivery in await rig.deliver(number=5):
        settler.put(Verdict(delivery, outcome))
    await soon(settler.settle())
    assert len(rig.wire.sent) == 1 + 3
    assert len(settled) == 5


async def test_each_outcome_goes_its_own_way(rig):
    settler, settled = rig.settler()
    outcomes = (Ack(), Ack(dropped=True), Retry(Wait.RETRIED, 5000, 1, error="e"), DEAD, Release())
    deliveries = await rig.deliver("done", "dropped", "retried", "dead", "released")
    for delivery, outcome in zip(deliveries, outcomes, strict=True):
        settler.put(Verdict(delivery, outcome))
        assert delivery.settling
    await soon(settler.settle())
    assert rig.ledger() == {"accepted": 5, "done": 1, "dropped": 1, "retried": 1, "dead": 1, "released": 1}
    assert rig.pending() == {}
    assert rig.ready() == ["released"]
    assert 4000 < rig.delayed()["retried"] <= 5000
    assert rig.waiting("retried")["retry_count"] == "1"
    (letter,) = rig.letters()
    about = {"original_id": "dead", "reason": "rejected", "error": "no", "traceback": "trace", "fingerprint": "place"}
    assert letter | about | {"retry_count": "2", "worker": US} == letter
    assert set(settled) == set(deliveries)
    assert [event.applied for event in rig.events.of(Settled)] == [True] * 5


@pytest.mark.parametrize("outcome", [Retry(Wait.RETRIED, 5000), DEAD, Release()])
async def test_a_failure_whose_lease_was_lost_is_void(rig, outcome):
    """The other worker's run decides; nothing of ours may touch its entry."""
    settler, settled = rig.settler()
    delivery = await rig.deliver_one("a")
    rig.take_away(delivery)
    settler.put(Verdict(delivery, outcome))
    await soon(settler.settle())
    assert rig.pending() == {"a": (OTHER, 2)}
    assert (rig.delayed(), rig.letters()) == ({}, [])
    assert [event.applied for event in rig.events.of(Settled)] == [False]
    assert settled == [delivery]


async def test_of_one_call_only_what_was_lost_is_void(rig):
    settler, _ = rig.settler()
    lost, kept = await rig.deliver("lost", "kept")
    rig.take_away(lost)
    for delivery in (lost, kept):
        settler.put(Verdict(delivery, Release()))
    await soon(settler.settle())
    assert {event.message_id: event.applied for event in rig.events.of(Settled)} == {"lost": False, "kept": True}
    assert rig.ready() == ["kept"]


async def test_a_success_counts_whoever_owns_the_entry(rig):
    """The work is done: the other worker need not do it again."""
    settler, _ = rig.settler()
    delivery = await rig.deliver_one("a")
    rig.take_away(delivery)
    delivery.lost = True
    rig.wire.cut = 2
    settler.put(Verdict(delivery, Ack()))
    await soon(settler.settle())
    assert rig.is_empty()


@pytest.mark.parametrize("outcome", [Ack(), Ack(dropped=True), Retry(Wait.RETRIED, 5000), DEAD, Release()])
@pytest.mark.parametrize("fault", ["cut", "mute"])
async def test_a_write_is_repeated_through_an_outage_and_done_once(rig, outcome, fault):
    """Whether the request or only its reply was lost. What was held stays held until then."""
    settler, settled = rig.settler()
    delivery = await rig.deliver_one("a")
    setattr(rig.wire, fault, 3)
    settler.put(Verdict(delivery, outcome))
    await soon(settler.settle())
    assert settled == [delivery]
    ledger = rig.ledger()
    done = {name: ledger[name] for name in ("done", "dropped", "retried", "dead", "released") if name in ledger}
    assert list(done.values()) == [1]
    assert rig.pending() == {}
    assert [event.back for event in rig.events.of(Outage)] == [False, True]


async def test_what_redis_refuses_does_not_hold_up_the_rest(rig, monkeypatch):
    """Each kind of outcome goes its own way."""

    async def refuse(*_):
        raise RedisRefused("NOPERM")

    settler, settled = rig.settler()
    dead, done, retried, released = await rig.deliver("dead", "done", "retried", "released")
    monkeypatch.setattr(rig.store, "dead", refuse)
    rig.background(settler.run())
    outcomes = (DEAD, Ack(), Retry(Wait.RETRIED, 5000), Release())
    for delivery, outcome in zip((dead, done, retried, released), outcomes, strict=True):
        settler.put(Verdict(delivery, outcome))
    await until(lambda: len(settled) == 3)
    assert dead not in settled
    assert rig.pending() == {"dead": (US, 1)}


async def test_the_slot_stays_taken_during_an_outage(rig):
    settler, settled = rig.settler()
    delivery = await rig.deliver_one("a")
    rig.wire.gate, rig.wire.cut = asyncio.Event(), 1
    settler.put(Verdict(delivery, Ack()))
    settling = asyncio.ensure_future(settler.settle())
    rig.wire.gate.set()
    await rig.events.until(Outage)
    assert settled == []
    await soon(settling)
    assert settled == [delivery]


async def test_a_failure_is_given_up_once_the_lease_is_known_to_be_lost(rig):
    """After the outage nobody waits for a word that can only be LOST."""
    settler, settled = rig.settler()
    delivery = await rig.deliver_one("a")
    delivery.lost = True
    rig.wire.cut = 1
    settler.put(Verdict(delivery, Release()))
    await soon(settler.settle())
    assert rig.wire.sent == ["publish", "release"]
    assert settled == [delivery]
    assert [event.applied for event in rig.events.of(Settled)] == [False]
    assert rig.pending() == {"a": (US, 1)}


async def test_what_nobody_watches_is_not_told(rig):
    """Successes are routine: without an observer of the routine nothing is built."""
    settler, settled = rig.settler()
    rig.observers.routine = ()
    done, dropped = await rig.deliver("a", "b")
    settler.put(Verdict(done, Ack()))
    settler.put(Verdict(dropped, Ack(dropped=True)))
    await soon(settler.settle())
    assert [event.message_id for event in rig.events.of(Settled)] == ["b"]
    assert set(settled) == {done, dropped}


async def test_what_happened_is_told(rig):
    settler, _ = rig.settler()
    delivery = await rig.deliver_one("a")
    settler.put(Verdict(delivery, Ack(), "work", 1.5))
    await soon(settler.settle())
    assert rig.events.of(Settled) == [Settled("orders", "a", "work", Ack(), 1.5, applied=True)]


@pytest.mark.parametrize("outcome", [Retry(Wait.RETRIED, 5000), DEAD, Release()])
async def test_a_body_that_somebody_deleted_is_taken_off_the_books(rig, outcome):
    settler, settled = rig.settler()
    delivery = await rig.deliver_one("a")
    rig.raw("XDEL", rig.keys.normal, delivery.entry_id)
    rig.outside = 1
    settler.put(Verdict(delivery, outcome))
    await soon(settler.settle())
    assert settled == [delivery]
    assert rig.raw("XPENDING", rig.keys.normal, "streamq")[0] == 0
    assert rig.ledger()["vanished"] == 1


async def test_it_goes_on_when_the_group_was_made_anew(rig):
    """NOGROUP: the group is made again, and the outcome is void or late, but never stuck."""
    settler, settled = rig.settler()
    done, failed = await rig.deliver("done", "failed")
    rig.raw("XGROUP", "DESTROY", rig.keys.normal, "streamq")
    settler.put(Verdict(done, Ack()))
    settler.put(Verdict(failed, Release()))
    await soon(settler.settle())
    assert settled == [done, failed]
    assert rig.ready() == ["failed"]
