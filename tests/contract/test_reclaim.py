"""reclaim, extend and the janitor: who lives, whose entries are taken over, and what killed their workers."""

import pytest

from streamq.core.config import LEVELS
from streamq.core.outcome import Retry, Wait
from tests.contract.desk import FAR, GROUP, LEASE, SILENT, draft, fields
from tests.contract.test_settle import UNREADABLE, counted
from tests.support import pack_fields

OUTAGE, STEP_BACK, GRACE = 5000, 2000, 10_000


async def orphan(desk, *drafts, consumer="w1"):
    """Entries whose worker vanished long ago."""
    deliveries = await desk.deliver(*drafts, consumer=consumer)
    for delivery in deliveries:
        desk.age(delivery)
    return deliveries


def seen_ago(desk, ms):
    desk.raw("HSET", desk.keys.workers, "!seen", desk.now() - ms)


# --- taking over


async def test_an_entry_that_nobody_renewed_is_taken_over(desk):
    """It is pending with the new worker, delivered once more, and comes with its fields and its losses."""
    (old,) = await orphan(desk, draft("a", "high", deliveries=0))
    before = desk.state()
    found = await desk.reclaim("w2")
    assert (found.suspects, found.dead, found.grace) == (0, 0, False)
    (delivery,) = found.deliveries
    assert (delivery.key, delivery.token, delivery.losses, delivery.fields) == (old.key, 2, 1, old.fields)
    changed = {"pending": {old.key: ("w2", 2)}, "workers": {"!seen"}, "ledger": counted(before, orphan=1)}
    assert desk.state() == before | changed
    assert desk.idle_of(delivery) < LEASE


async def test_an_entry_that_is_renewed_stays(desk):
    """Younger than the lease: nothing is taken, and nothing changes."""
    await desk.deliver(draft("a"))
    await desk.reclaim()
    before = desk.state()
    assert (await desk.reclaim("w2")).deliveries == []
    assert desk.state() == before


async def test_the_entries_of_a_silent_consumer_are_taken_at_once(desk):
    """A beat named it and it is silent still: its entries go before their lease ends, on every level."""
    held = await desk.deliver(*(draft(level, level) for level in LEVELS))
    desk.silence("w1")
    found = await desk.reclaim("w2", silent=["w1"])
    assert [delivery.key for delivery in found.deliveries] == [delivery.key for delivery in held]
    assert {consumer for consumer, _ in desk.state()["pending"].values()} == {"w2"}


@pytest.mark.parametrize("name", ["w1", "unheard-of", "!seen"])
async def test_only_a_consumer_that_fell_silent_loses_its_entries(desk, name):
    """A worker that beats again, or one that never beat, keeps its entries until their lease ends."""
    await desk.deliver(draft("a"), consumer=name)
    desk.silence("w1", SILENT - 2000)
    desk.raw("HSET", desk.keys.workers, "!seen", desk.now() - OUTAGE + 2000)
    assert (await desk.reclaim("w2", silent=[name])).deliveries == []


async def test_nobody_takes_over_from_itself(desk):
    """A worker that was stopped and wakes finds its own name among the silent ones: its entries are not lost."""
    await desk.deliver(draft("a"))
    desk.silence("w1")
    assert (await desk.reclaim("w1", silent=["w1"])).deliveries == []


async def test_no_more_are_taken_than_there_is_room_for(desk):
    """Over all levels and both ways together; the rest is found by the next call."""
    await desk.deliver(*(draft(f"s{n}", level) for level in LEVELS for n in [level, level + "2"]), consumer="gone")
    desk.silence("gone")
    await orphan(desk, draft("a", "low"), consumer="w1")
    first = await desk.reclaim(count=3, silent=["gone"])
    assert [d.message_id for d in first.deliveries] == ["scritical", "scritical2", "shigh"]
    rest = await desk.reclaim(count=10, silent=["gone"])
    assert len(rest.deliveries) == 6


async def test_a_cursor_goes_on_where_the_last_call_ended(desk):
    """Each call looks at ten times its room: fresh entries in front must not hide old ones for ever."""
    await desk.deliver(*(draft(f"m{n:02}") for n in range(25)))
    old = await orphan(desk, draft("old"), consumer="w2")
    found = await desk.reclaim("w3", count=1)
    assert found.deliveries == []
    assert found.cursors[2] != "0-0"
    calls = 1
    while not found.deliveries:
        found = await desk.reclaim("w3", count=1, cursors=found.cursors)
        calls += 1
    assert [d.key for d in found.deliveries] == [d.key for d in old]
    assert calls == 3
    assert found.cursors == ("0-0",) * 4


async def test_each_level_has_a_cursor_of_its_own(desk):
    """Where there was no room for a level, its cursor stays where it was."""
    await orphan(desk, draft("a", "critical"), draft("b", "critical"), draft("c", "low"))
    found = await desk.reclaim(count=1, cursors=("0-0", "1-1", "2-2", "3-3"))
    assert [d.message_id for d in found.deliveries] == ["a"]
    assert found.cursors[0] != "0-0"
    assert found.cursors[1:] == ("1-1", "2-2", "3-3")


@pytest.mark.parametrize("silent", [[], ["w1"]])
async def test_bodies_that_vanished_are_counted(desk, silent):
    """A deleted body leaves the pending list; its neighbour is taken over."""
    gone, kept = await orphan(desk, draft("a"), draft("b"))
    desk.silence("w1")
    desk.raw("XDEL", desk.keys.normal, gone.entry_id)
    before = desk.state()
    found = await desk.reclaim("w2", silent=silent)
    assert [delivery.key for delivery in found.deliveries] == [kept.key]
    after = desk.state()
    assert after["pending"] == {kept.key: ("w2", 2)}
    assert after["ledger"] == counted(before, vanished=1, orphan=1)
    desk.outside = 1


# --- the judgement


@pytest.mark.parametrize(("losses", "wait"), [(2, 1000), (3, 5000), (4, 30_000), (19, 30_000)])
async def test_a_message_that_lost_two_workers_is_a_suspect(desk, losses, wait):
    """It goes to wait, the longer the more it killed, and says how many."""
    await orphan(desk, draft("a", deliveries=losses - 1, retry_count=1, held_since=7, metadata="{}", junk="x"))
    before, start = desk.state(), desk.now()
    found = await desk.reclaim()
    assert (found.deliveries, found.suspects, found.dead) == ([], 1, 0)
    kept = fields("a", metadata="{}", retry_count=1, deliveries=losses, held_since=7)
    assert desk.state() == before | {
        "normal": [],
        "pending": {},
        "delayed": ["a"],
        "bodies": {"a": kept},
        "workers": {"!seen"},
        "ledger": counted(before, suspect=1, orphan=1),
    }
    assert start + wait <= desk.due_of("a") <= desk.now() + wait


async def test_losses_are_counted_over_deliveries_of_one_entry(desk):
    """Taken over once it runs again, taken over twice it is a suspect, however it had been delivered before."""
    await orphan(desk, draft("a"))
    (delivery,) = (await desk.reclaim("w2")).deliveries
    desk.age(delivery)
    assert (await desk.reclaim("w3")).suspects == 1
    assert desk.state()["bodies"]["a"]["deliveries"] == "2"


@pytest.mark.parametrize("nonsense", [b"nan", b"9" * 17])
async def test_a_suspect_of_others_is_named_when_it_waits(desk, nonsense):
    """An entry without id gets the one that stands for it; a counter that is no number is none."""
    entry = desk.add("low", entry=[b"payload", b"{}", b"deliveries", b"1", b"retry_count", b"x", b"alone", nonsense])
    for delivery in desk.fetch(level="low"):
        desk.age(delivery)
    assert (await desk.reclaim()).suspects == 1
    name = f"elow-{entry}"
    kept = {"id": name, "priority": "4", "payload": "{}", "retry_count": "0", "deliveries": "2"}
    assert desk.state()["bodies"] == {name: kept}


@pytest.mark.parametrize("losses", [20, 21])
async def test_a_message_that_lost_too_many_workers_is_dead(desk, losses):
    await orphan(desk, draft("a", deliveries=losses - 1, retry_count=2))
    before = desk.state()
    found = await desk.reclaim("w2")
    assert (found.suspects, found.dead) == (0, 1)
    after = desk.state()
    assert after["ledger"] == counted(before, dead=1, orphan=1)
    (letter,) = after["dead"]
    assert letter.pop("error")
    assert letter.pop("original_entry")
    assert letter == fields("a") | {
        "original_queue": "orders", "original_id": "a", "reason": "max_deliveries", "retry_count": "2",
        "deliveries": str(losses), "worker": "w2",
    }  # fmt: skip


@pytest.mark.parametrize("before", [0, 1])
async def test_who_kills_two_workers_while_it_runs_alone_is_poison(desk, before):
    """A death alone is known by the mark in the delivery counter: the first waits, the second is the verdict."""
    (delivery,) = await desk.deliver(draft("a", deliveries=2, **({"alone": before} if before else {})))
    await desk.store.alone("w1", delivery)
    desk.age(delivery)
    found = await desk.reclaim("w2")
    state = desk.state()
    if before == 0:
        assert found.suspects == 1
        assert state["bodies"] == {"a": fields("a", retry_count=0, deliveries=3, alone=1)}
    else:
        assert found.dead == 1
        assert (state["dead"][0]["reason"], state["dead"][0]["deliveries"]) == ("poison", "3")


async def test_a_mark_is_not_a_thousand_losses(desk):
    """An entry that ran alone for the first time and lost its worker has lost one."""
    (delivery,) = await desk.deliver(draft("a"))
    await desk.store.alone("w1", delivery)
    desk.age(delivery)
    (again,) = (await desk.reclaim("w2")).deliveries
    assert (again.token, again.losses) == (1002, 1)


async def test_a_thousand_losses_are_no_mark(desk):
    """Somebody else has raised the counter: the message never ran alone."""
    (delivery,) = await orphan(desk, draft("a"))
    counter = ("RETRYCOUNT", 1000, "IDLE", 10 * LEASE, "JUSTID")
    desk.raw("XCLAIM", desk.keys.normal, GROUP, "w1", 0, delivery.entry_id, *counter)
    assert (await desk.reclaim("w2")).dead == 1
    assert desk.state()["dead"][0]["reason"] == "max_deliveries"


async def test_a_letter_of_an_entry_without_an_id_has_the_one_that_stands_for_it(desk):
    entry = desk.add(entry=[b"payload", b"{}", b"deliveries", b"19"])
    (delivery,) = desk.fetch()
    desk.age(delivery)
    assert (await desk.reclaim("w2")).dead == 1
    (letter,) = desk.state()["dead"]
    assert letter["id"] == letter["original_id"] == f"enormal-{entry}"


async def test_dying_in_company_is_not_dying_alone(desk):
    """Without the mark a loss does not count towards poison, however often."""
    await orphan(desk, draft("a", deliveries=5, alone=1))
    assert (await desk.reclaim()).suspects == 1
    assert desk.state()["bodies"]["a"]["alone"] == "1"


@pytest.mark.parametrize("entry", UNREADABLE.values(), ids=UNREADABLE)
async def test_an_unreadable_entry_does_not_stop_reclaim(desk, entry):
    """It becomes a dead letter with its bytes, and its neighbours are taken over."""
    desk.add(entry=entry)
    desk.add(id="b")
    bad, good = desk.fetch()
    desk.age(bad)
    desk.age(good)
    found = await desk.reclaim("w2")
    assert ([d.message_id for d in found.deliveries], found.dead) == (["b"], 1)
    (letter,) = desk.state()["dead"]
    assert letter["raw"].encode("latin-1") == pack_fields(entry)
    assert (letter["reason"], letter["original_entry"], letter["deliveries"]) == ("malformed", bad.entry_id, "1")


async def test_a_suspect_whose_id_waits_already_waits_beside_it(desk):
    await desk.publish(draft("a", delay_ms=FAR))
    desk.add(id="a", deliveries=5)
    (delivery,) = desk.fetch()
    desk.age(delivery)
    assert (await desk.reclaim()).suspects == 1
    assert desk.state()["delayed"] == ["a", f"a~normal-{delivery.entry_id}"]


# --- the service guard


@pytest.mark.parametrize("ago", [OUTAGE + 1000, -STEP_BACK - 1000])
async def test_after_an_outage_nobody_is_taken_over_from(desk, ago):
    """Nobody could speak, or the clock stepped back: for ten seconds silence proves nothing."""
    await orphan(desk, draft("a"))
    desk.silence("w1")
    seen_ago(desk, ago)
    before, now = desk.state(), desk.now()
    found = await desk.reclaim(silent=["w1"], cursors=("1-1", "0-0", "0-0", "0-0"))
    assert (found.grace, found.deliveries, found.cursors[0]) == (True, [], "1-1")
    assert desk.state() == before | {"workers": {"w1", "!seen", "!grace"}}
    assert now + GRACE <= int(desk.raw("HGET", desk.keys.workers, "!grace")) <= desk.now() + GRACE
    assert (await desk.reclaim()).grace, "the guard holds although it has been heard of now"
    desk.raw("HSET", desk.keys.workers, "!grace", desk.now() - 1)
    assert len((await desk.reclaim()).deliveries) == 1


@pytest.mark.parametrize("ago", [OUTAGE - 3000, -STEP_BACK + 1500, None])
async def test_while_somebody_speaks_there_is_no_grace(desk, ago):
    """Small gaps, small steps, and the very first call."""
    await orphan(desk, draft("a"))
    if ago is not None:
        seen_ago(desk, ago)
    assert len((await desk.reclaim()).deliveries) == 1


async def test_a_beat_ends_an_outage_too(desk):
    """The first caller after an outage is mostly a beat: it must not wipe out the traces."""
    await orphan(desk, draft("a"))
    seen_ago(desk, OUTAGE + 1000)
    desk.beat("w2")
    assert (await desk.reclaim("w2")).grace


@pytest.mark.parametrize("by", ["reclaim", "beat"])
async def test_a_clock_that_steps_back_keeps_no_dead_worker_alive(desk, by):
    """A beat of an hour ahead is from before the step: it counts from now on, so that who died is missed in time."""
    hour = 3_600_000
    before = desk.now()
    desk.raw("HSET", desk.keys.workers, "!seen", before + hour, "dead", before + hour, "alive", before - 5)
    if by == "reclaim":
        assert (await desk.reclaim("w2")).grace
    else:
        desk.beat("w2")
    assert before <= int(desk.raw("HGET", desk.keys.workers, "dead")) <= desk.now()
    assert int(desk.raw("HGET", desk.keys.workers, "alive")) == before - 5
    assert before + GRACE <= int(desk.raw("HGET", desk.keys.workers, "!grace")) <= desk.now() + GRACE


async def test_a_beat_that_is_ahead_is_left_alone_while_time_goes_on(desk):
    ahead = desk.now() + 60_000
    desk.raw("HSET", desk.keys.workers, "!seen", desk.now(), "w1", ahead)
    assert not (await desk.reclaim("w2")).grace
    assert int(desk.raw("HGET", desk.keys.workers, "w1")) == ahead


async def test_a_grace_that_lies_too_far_ahead_is_void(desk):
    """It was written by a clock that was ahead: it would hold up repair until that time comes."""
    await orphan(desk, draft("a"))
    desk.raw("HSET", desk.keys.workers, "!grace", desk.now() + 60 * GRACE)
    assert len((await desk.reclaim()).deliveries) == 1


async def test_nonsense_in_the_hash_of_workers_is_nothing(desk):
    """Only plain digits count."""
    await orphan(desk, draft("a"))
    desk.raw("HSET", desk.keys.workers, "!seen", "nan", "!grace", "inf", "w5", "-1e999")
    assert desk.beat("w2").silent == ["w5"]
    assert len((await desk.reclaim(silent=["w5"])).deliveries) == 1


# --- beats


async def test_a_beat_renews_what_is_ours(desk):
    """Idle starts anew, the delivery counter does not move, and the worker has spoken."""
    first, second = await desk.deliver(draft("a"), draft("b", "low"))
    for delivery in (first, second):
        desk.age(delivery)
    before, start = desk.state(), desk.now()
    beat = desk.beat("w1", [first, second], about='{"slots":1}')
    assert (beat.lost, beat.silent) == ([], [])
    assert start <= beat.now_ms <= desk.now()
    assert desk.state() == before | {"workers": {"w1", "!about:w1", "!seen"}}
    assert start <= int(desk.raw("HGET", desk.keys.workers, "w1")) <= desk.now()
    assert desk.raw("HGET", desk.keys.workers, "!about:w1") == b'{"slots":1}'
    assert all(desk.idle_of(delivery) < LEASE for delivery in (first, second))
    assert (await desk.reclaim("w2")).deliveries == []


async def test_a_beat_without_deliveries_says_that_we_live(desk):
    """Also with nothing in flight; what was said about the worker stays."""
    desk.beat("w1", about="{}")
    desk.silence("w1")
    assert desk.beat("w1").silent == []
    assert desk.raw("HGET", desk.keys.workers, "!about:w1") == b"{}"


async def test_a_beat_learns_what_is_lost(desk):
    """What another worker took, what came back to us in another way, what is settled: with the token as it was sent."""
    deliveries = await desk.deliver(*(draft(name) for name in "abcd"))
    taken, back, settled, kept = deliveries
    desk.age(taken)
    await desk.reclaim("w2")
    desk.age(back)
    await desk.reclaim("w1")
    await desk.store.ack([settled.key])
    before = desk.state()
    beat = desk.beat("w1", deliveries)
    assert beat.lost == [(taken, 1), (back, 1), (settled, 1)]
    assert desk.state() == before | {"workers": {"w1", "!seen"}}
    assert kept.token == 1


async def test_a_beat_notices_that_a_body_vanished(desk):
    """There is nothing left to run: lost, and counted."""
    (delivery,) = await desk.deliver(draft("a"))
    desk.raw("XDEL", desk.keys.normal, delivery.entry_id)
    before = desk.state()
    assert desk.beat("w1", [delivery]).lost == [(delivery, 1)]
    after = desk.state()
    assert after["pending"] == {}
    assert after["ledger"] == counted(before, vanished=1)
    desk.outside = 1


async def test_a_beat_names_who_is_silent(desk):
    """Those that beat and stopped, but not what else lies in the hash."""
    desk.beat("w2", about="{}")
    desk.silence("gone")
    desk.silence("late", SILENT - 2000)
    desk.raw("HSET", desk.keys.workers, "!about:gone", "{}")
    assert desk.beat("w1").silent == ["gone"]


async def test_a_worker_beats_although_a_group_is_gone(desk):
    """What cannot be renewed must not make the worker look dead: others would take all it runs."""
    (delivery,) = await desk.deliver(draft("a"))
    desk.raw("XGROUP", "DESTROY", desk.keys.normal, GROUP)
    with pytest.raises(Exception, match="NOGROUP"):
        desk.beat("w1", [delivery])
    assert "w1" in desk.state()["workers"]


# --- the janitor


async def test_a_consumer_that_is_gone_is_forgotten(desk):
    """It leaves the group and the hash; forgetting it again changes nothing."""
    (delivery,) = await desk.deliver(draft("a"))
    await desk.store.ack([delivery.key])
    desk.beat("w1", about="{}")
    desk.silence("w1")
    assert await desk.store.consumers() == ["w1"]
    before = desk.state()
    for _ in range(2):
        assert await desk.store.forget("w1", dead_after_ms=SILENT) == "OK"
        assert await desk.store.consumers() == []
        assert desk.state() == before | {"workers": {"!seen"}}


async def test_a_consumer_that_lives_stays(desk):
    desk.beat("w1")
    desk.fetch("w1")
    before = desk.state()
    assert await desk.store.forget("w1", dead_after_ms=SILENT) == "ALIVE"
    assert desk.state() == before
    assert await desk.store.forget("w1", dead_after_ms=0) == "OK", "it may leave by itself"


@pytest.mark.parametrize("level", LEVELS)
async def test_a_consumer_that_holds_something_stays(desk, level):
    """XGROUP DELCONSUMER would make its entries unreachable for ever, without a word."""
    (delivery,) = await desk.deliver(draft("a", level))
    desk.silence("w1")
    before = desk.state()
    assert await desk.store.forget("w1", dead_after_ms=SILENT) == "PENDING"
    assert desk.state() == before
    assert await desk.store.retry("w1", [(delivery, Retry(Wait.RETRIED, FAR))]) == ["OK"]


@pytest.mark.parametrize(("lease_ms", "ago", "grace"), [(2000, 1700, True), (2000, 1000, False), (60_000, 4500, False)])
async def test_a_short_lease_makes_a_short_silence_an_outage(desk, lease_ms, ago, grace):
    """What is long enough to end the lease of a worker that lives must not cost it its entries."""
    await orphan(desk, draft("a"))
    seen_ago(desk, ago)
    found = await desk.store.reclaim("w2", lease_ms=lease_ms, count=10, silent_after_ms=12_000, max_deliveries=20)
    assert found.grace is grace
