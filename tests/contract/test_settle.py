"""ack, retry, dead, release, alone: what each outcome leaves behind, and who may write it."""

import pytest

from streamq.core.config import LEVELS
from streamq.core.errors import RedisUnavailable
from streamq.core.outcome import DeadLetter, Reason, Retry, Wait
from streamq.store.outages import OutOfMemory
from streamq.store.scripts import script
from tests.contract.desk import FAR, GROUP, draft, fields
from tests.support import pack_fields

LETTER = DeadLetter(Reason.REJECTED, "ValueError: no", "Traceback ...", "ValueError app.f", 3)
RETRY = Retry(Wait.RETRIED, FAR, retry_count=1)
SIGNED = {"metadata": '{"created_by":"x"}', "signature": "v1,k,mac"}
MANY = [part for n in range(5000) for part in (b"f%d" % n, b"x")]  # more values than Lua can unpack

# How each fenced verdict is written, and what it answers where it has no effect.
FENCED = {
    "retry": lambda desk, delivery, consumer: desk.store.retry(consumer, [(delivery, RETRY)]),
    "dead": lambda desk, delivery, consumer: desk.store.dead(consumer, [(delivery, LETTER)]),
    "release": lambda desk, delivery, consumer: desk.store.release(consumer, [delivery]),
    "alone": lambda desk, delivery, consumer: desk.store.alone(consumer, delivery),
}
LOST = {"retry": ["LOST"], "dead": ["LOST"], "release": ["LOST"], "alone": None}
fenced = pytest.mark.parametrize("verdict", FENCED)


def counted(state, **more):
    """A ledger with these counters raised."""
    return state["ledger"] | {name: state["ledger"].get(name, 0) + by for name, by in more.items()}


def without(state, delivery):
    return {key: held for key, held in state["pending"].items() if key != delivery.key}


# --- ack


@pytest.mark.parametrize("counter", ["done", "dropped"])
async def test_what_is_done_leaves_the_streams(desk, counter):
    """ack takes pending entries of any level off and counts them; nothing else changes."""
    deliveries = await desk.deliver(draft("a", "high"), draft("b"), draft("c"), draft("d", "low"))
    before = desk.state()
    assert await desk.store.ack([d.key for d in deliveries if d.message_id != "c"], counter) == 3
    kept = deliveries[2]
    assert desk.state() == before | {
        "high": [],
        "normal": [fields("c")],
        "low": [],
        "pending": {kept.key: ("w1", 1)},
        "ledger": counted(before, **{counter: 3}),
    }


async def test_a_success_is_counted_once(desk):
    """The second time nothing is found, and that is only noted."""
    (delivery,) = await desk.deliver(draft("a"))
    assert await desk.store.ack([delivery.key]) == 1
    before = desk.state()
    assert await desk.store.ack([delivery.key]) == 0
    assert desk.state() == before | {"ledger": counted(before, late_ack=1)}


async def test_a_success_of_a_worker_that_lost_its_lease_counts(desk):
    """ack is not fenced: whoever finished it, it is done."""
    (delivery,) = await desk.deliver(draft("a"))
    desk.age(delivery)
    assert len((await desk.reclaim("w2")).deliveries) == 1
    assert await desk.store.ack([delivery.key]) == 1
    assert desk.state()["pending"] == {}


async def test_a_success_after_a_retry_elsewhere_leaves_the_copy(desk):
    """The message was sent to wait by another worker: that copy stands."""
    (delivery,) = await desk.deliver(draft("a"))
    await desk.store.retry("w1", [(delivery, RETRY)])
    before = desk.state()
    assert await desk.store.ack([delivery.key]) == 0
    assert desk.state() == before | {"ledger": counted(before, late_ack=1)}


async def test_a_success_counts_though_the_group_was_made_anew(desk):
    """Nothing is pending then, but the body is there: done, and not delivered again."""
    (delivery,) = await desk.deliver(draft("a"))
    desk.raw("XGROUP", "DESTROY", desk.keys.normal, GROUP)
    assert await desk.store.ack([delivery.key]) == 1
    await desk.store.ensure()
    assert desk.fetch() == []
    assert desk.state()["ledger"]["done"] == 1


async def test_a_success_counts_though_the_body_vanished(desk):
    """Somebody deleted the entry while it ran: it came in, and now it is done."""
    (delivery,) = await desk.deliver(draft("a"))
    desk.raw("XDEL", desk.keys.normal, delivery.entry_id)
    assert await desk.store.ack([delivery.key]) == 1


async def test_one_bad_entry_does_not_hold_back_the_rest_of_an_ack(desk):
    first, second = await desk.deliver(draft("a"), draft("b"))
    assert await desk.store.ack([("normal", "1-1"), first.key, ("low", "2-2"), second.key]) == 2
    assert desk.state()["ledger"]["late_ack"] == 2


async def test_an_ack_of_many(desk):
    deliveries = await desk.deliver(*(draft(f"m{n}", LEVELS[n % 4]) for n in range(40)))
    assert await desk.store.ack([d.key for d in deliveries]) == 40


# --- retry


async def test_a_retry_waits_with_the_signed_bytes(desk):
    """The entry goes to the delayed messages, with the counters of the outcome and nothing else of its own."""
    start = desk.now()
    (delivery,) = await desk.deliver(draft("a", "high", **SIGNED, retry_count=7, deliveries=9, alone=1, junk="x"))
    before = desk.state()
    outcome = Retry(Wait.HELD, FAR, retry_count=1, deliveries=2, held_since=3, alone=4)
    assert await desk.store.retry("w1", [(delivery, outcome)]) == ["OK"]
    kept = fields("a", "high", **SIGNED, retry_count=1, deliveries=2, held_since=3, alone=4)
    assert desk.state() == before | {
        "high": [],
        "pending": {},
        "delayed": ["a"],
        "bodies": {"a": kept},
        "ledger": counted(before, held=1),
    }
    assert start + FAR <= desk.due_of("a") <= desk.now() + FAR


@pytest.mark.parametrize("why", Wait)
async def test_each_kind_of_wait_is_counted(desk, why):
    """The reason is the counter's name; what is zero is not written, but for the two counters of every entry."""
    (delivery,) = await desk.deliver(draft("a", held_since=5, alone=1))
    before = desk.state()
    assert await desk.store.retry("w1", [(delivery, Retry(why, FAR))]) == ["OK"]
    after = desk.state()
    assert after["bodies"] == {"a": fields("a", retry_count=0, deliveries=0)}
    assert after["ledger"] == counted(before, **{why: 1})


async def test_an_entry_of_others_gets_its_id_when_it_is_first_rewritten(desk):
    """Absent id and level are fixed: eLEVEL-ENTRYID, and the level of the stream it lay in."""
    desk.add("high", entry=[b"payload", b"{}"])
    (delivery,) = desk.fetch(level="high")
    assert await desk.store.retry("w1", [(delivery, RETRY)]) == ["OK"]
    name = f"ehigh-{delivery.entry_id}"
    kept = {"id": name, "priority": "1", "payload": "{}", "retry_count": "1", "deliveries": "0"}
    assert desk.state()["bodies"] == {name: kept | {"priority": "2"}}


async def test_an_id_that_waits_already_is_never_overwritten(desk):
    """Two messages with one id, and one whose id is the name that the second one got: all of them wait."""
    first = await desk.deliver(draft("a"))
    await desk.store.retry("w1", [(first[0], RETRY)])
    desk.add(id="a", n=1)
    (second,) = desk.fetch()
    disguised = f"a~normal-{second.entry_id}"
    desk.add(id=disguised)
    (third,) = desk.fetch()
    before = desk.state()
    assert await desk.store.retry("w1", [(third, RETRY), (second, RETRY)]) == ["OK", "OK"]
    after = desk.state()
    assert after["delayed"] == ["a", disguised, f"{disguised}~normal-{second.entry_id}"]
    assert [after["bodies"][member]["id"] for member in after["delayed"]] == ["a", disguised, "a"]
    assert after["ledger"] == counted(before, retried=2)


# --- dead


async def test_a_dead_letter_holds_the_signed_bytes_and_what_happened(desk):
    """Signed fields and signature as they were, the reason, and where it came from."""
    (delivery,) = await desk.deliver(draft("a", "low", **SIGNED, retry_count=2, deliveries=1, junk="x"))
    before, start = desk.state(), desk.now()
    assert await desk.store.dead("w1", [(delivery, LETTER)]) == ["OK"]
    assert desk.state() == before | {
        "low": [],
        "pending": {},
        "dead": [
            fields("a", "low", **SIGNED)
            | {
                "original_queue": "orders", "original_id": "a", "original_entry": delivery.entry_id,
                "reason": "rejected", "error": "ValueError: no", "traceback": "Traceback ...", "retry_count": "3",
                "deliveries": "1", "worker": "w1", "fingerprint": "ValueError app.f",
            }
        ],
        "ledger": counted(before, dead=1),
    }  # fmt: skip
    ((_, letter),) = desk.raw("XRANGE", desk.keyspace.dead_letter, "-", "+")
    failed_at = int(letter[letter.index(b"failed_at") + 1])
    assert start <= failed_at <= desk.now()


async def test_a_dead_letter_without_details_has_no_empty_fields(desk):
    (delivery,) = await desk.deliver(draft("a"))
    await desk.store.dead("w1", [(delivery, DeadLetter(Reason.EXPIRED))])
    (letter,) = desk.state()["dead"]
    assert set(letter) == {
        *fields(), "original_queue", "original_id", "original_entry", "reason", "retry_count", "deliveries", "worker",
    }  # fmt: skip


UNREADABLE = {
    "no payload": [b"id", b"a"],
    "a doubled field": [b"payload", b"{}", b"id", b"a", b"id", b"b"],
    "a doubled field of no meaning": [b"payload", b"{}", b"x", b"1", b"x", b"1"],
    "a bad priority": [b"payload", b"{}", b"priority", b"5"],
    "too many fields": [b"payload", b"{}", *MANY],
}
unreadable = pytest.mark.parametrize("entry", UNREADABLE.values(), ids=UNREADABLE)


@unreadable
async def test_an_unreadable_entry_dies_with_its_bytes(desk, entry):
    """What cannot be carried field by field is kept raw, and the rest of the batch goes on."""
    desk.add(entry=entry)
    desk.add(id="b")
    bad, good = desk.fetch()
    assert await desk.store.dead("w1", [(bad, LETTER), (good, LETTER)]) == ["OK", "OK"]
    first, second = desk.state()["dead"]
    assert first["raw"].encode("latin-1") == pack_fields(entry)
    assert not {"payload", "id", "priority"} & set(first)
    assert second["id"] == "b"


async def test_an_entry_of_the_most_values_is_readable(desk):
    desk.add(entry=[b"payload", b"{}", *MANY[:6998]])
    assert await desk.store.release("w1", desk.fetch()) == ["OK"]


@unreadable
@pytest.mark.parametrize("verdict", ["retry", "release"])
async def test_an_unreadable_entry_is_kept_where_it_cannot_be_rewritten(desk, entry, verdict):
    """It stays pending: whoever takes it over makes it a dead letter."""
    desk.add(entry=entry)
    (bad,) = desk.fetch()
    before = desk.state()
    assert await FENCED[verdict](desk, bad, "w1") == ["KEPT"]
    assert desk.state() == before


async def test_a_dead_letter_is_small_when_memory_is_full(desk):
    """Refused for want of memory, it goes again without traceback and with little of the error: the queue drains."""
    (delivery,) = await desk.deliver(draft("a"))
    big = DeadLetter(Reason.REJECTED, "e" * 2000, "t" * 8000, "f", 3)
    desk.raw("CONFIG", "SET", "maxmemory", 1)
    assert await desk.store.dead("w1", [(delivery, big)]) == ["OK"]
    (letter,) = desk.state()["dead"]
    assert len(letter["error"].encode("latin-1")) == 256
    assert letter["retry_count"] == "3"
    assert not {"traceback", "fingerprint"} & set(letter)


# --- release


async def test_what_is_released_goes_to_the_tail_unchanged(desk):
    """The same bytes, with what the entry said of itself; readers that wait see it at once."""
    more = SIGNED | {"retry_count": 2, "held_since": 5, "alone": 1}
    (delivery,) = await desk.deliver(draft("a", **more))
    await desk.publish(draft("b"))
    before = desk.state()
    assert await desk.store.release("w1", [delivery]) == ["OK"]
    assert desk.state() == before | {
        "normal": [fields("b"), fields("a", **more)],
        "pending": {},
        "ledger": counted(before, released=1, **{"added:normal": 1}),
    }
    assert [again.message_id for again in desk.fetch("w2")] == ["b", "a"]


@pytest.mark.parametrize(("held", "losses", "written"), [({}, 0, None), ({"deliveries": 0}, 0, "0"), ({}, 2, "2")])
async def test_losses_survive_a_release(desk, held, losses, written):
    """`deliveries` is written where there is something to say, or where it was said before."""
    (delivery,) = await desk.deliver(draft("a", **held))
    delivery.losses = losses
    await desk.store.release("w1", [delivery])
    assert desk.state()["normal"][0].get("deliveries") == written


# --- alone


async def test_running_alone_is_marked_in_the_delivery_counter(desk):
    """The mark is the new token; asking again gives the same; what carries the old token is lost."""
    (delivery,) = await desk.deliver(draft("a"))
    before = desk.state()
    assert await desk.store.alone("w1", delivery) == 1001
    marked = before | {"pending": {delivery.key: ("w1", 1001)}}
    assert desk.state() == marked
    assert await desk.store.alone("w1", delivery) == 1001
    assert desk.state() == marked
    assert await desk.store.retry("w1", [(delivery, RETRY)]) == ["LOST"]
    delivery.token = 1001
    assert await desk.store.retry("w1", [(delivery, RETRY)]) == ["OK"]


async def test_the_mark_is_taken_off_again(desk):
    """A worker that is told to end does so: whoever takes the entry over then counts a loss, and no death alone."""
    (delivery,) = await desk.deliver(draft("a", deliveries=2))
    before = desk.state()
    delivery.token = await desk.store.alone("w1", delivery)
    for _ in range(2):
        assert await desk.store.alone("w1", delivery, marked=False) == 1
        assert desk.state() == before
    desk.age(delivery)
    assert await desk.store.alone("w2", delivery, marked=False) is None
    assert (await desk.reclaim("w2")).suspects == 1
    assert desk.state()["bodies"]["a"] == fields("a", retry_count=0, deliveries=3)


async def test_what_was_marked_without_an_answer_can_be_given_back(desk):
    """It never ran, so it goes back with the losses it had: nobody died of it."""
    (delivery,) = await desk.deliver(draft("a", deliveries=2))
    assert await desk.store.alone("w1", delivery) == 1001
    assert await desk.store.release("w1", [delivery]) == ["OK"]
    assert desk.state()["normal"] == [fields("a", deliveries=2)]
    (again,) = desk.fetch("w2")
    assert (again.token, again.losses) == (1, 2)


# --- the fence


@fenced
async def test_a_verdict_with_an_old_token_has_no_effect(desk, verdict):
    """The entry came back to the same worker meanwhile: what is known of the first time does not count."""
    (delivery,) = await desk.deliver(draft("a"))
    desk.age(delivery)
    (again,) = (await desk.reclaim("w1")).deliveries
    assert (again.key, again.token) == (delivery.key, 2)
    await assert_lost(desk, verdict, delivery, "w1")


@fenced
async def test_a_verdict_on_what_another_worker_runs_has_no_effect(desk, verdict):
    """The entry was taken over; even the right number in the wrong hands is no token."""
    (delivery,) = await desk.deliver(draft("a"))
    desk.age(delivery)
    await desk.reclaim("w2")
    await assert_lost(desk, verdict, delivery, "w1")
    delivery.token = 2
    await assert_lost(desk, verdict, delivery, "w1")


@fenced
async def test_a_verdict_on_what_is_settled_has_no_effect(desk, verdict):
    (delivery,) = await desk.deliver(draft("a"))
    await desk.store.ack([delivery.key])
    await assert_lost(desk, verdict, delivery, "w1")


async def assert_lost(desk, verdict, delivery, consumer):
    before = desk.state()
    assert await FENCED[verdict](desk, delivery, consumer) == LOST[verdict]
    noted = {} if verdict == "alone" else {"ledger": counted(before, fenced=1)}
    assert desk.state() == before | noted


@fenced
@pytest.mark.parametrize("how", ["XDEL", "XTRIM"])
async def test_a_body_that_vanished_is_taken_off_the_books(desk, verdict, how):
    """Nothing to carry on: no longer pending, counted as vanished, and the law shows it."""
    (delivery,) = await desk.deliver(draft("a"))
    desk.raw(how, desk.keys.normal, *([delivery.entry_id] if how == "XDEL" else ["MAXLEN", 0]))
    before = desk.state()
    assert await FENCED[verdict](desk, delivery, "w1") == (None if verdict == "alone" else ["VANISHED"])
    assert desk.state() == before | {"pending": {}, "ledger": counted(before, vanished=1)}
    desk.outside = 1


@pytest.mark.parametrize("verdict", ["retry", "dead", "release"])
async def test_one_bad_item_does_not_hold_back_the_batch(desk, verdict):
    """Lost, vanished and good ones in one call: a word each, in their order."""
    deliveries = await desk.deliver(*(draft(name, LEVELS[n]) for n, name in enumerate("abcd")))
    lost, vanished, *_ = deliveries
    await desk.store.ack([lost.key])
    desk.raw("XDEL", desk.keys.stream(vanished.level), vanished.entry_id)
    outcome = RETRY if verdict == "retry" else LETTER
    items = deliveries if verdict == "release" else [(d, outcome) for d in deliveries]
    assert await getattr(desk.store, verdict)("w1", items) == ["LOST", "VANISHED", "OK", "OK"]
    assert desk.state()["pending"] == {}
    desk.outside = 1


# --- memory


async def test_what_drains_works_without_memory(desk):
    """Every outcome can be written when Redis takes no more: else a full queue would stay full."""
    names = "abcdefg"
    deliveries = dict(zip(names, await desk.deliver(*(draft(name) for name in names)), strict=True))
    desk.raw("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(OutOfMemory):
        await desk.publish(draft("x"))
    assert await desk.store.ack([deliveries["a"].key]) == 1
    assert await desk.store.ack([deliveries["b"].key], "dropped") == 1
    assert await desk.store.retry("w1", [(deliveries["c"], Retry(Wait.RETRIED, 0))]) == ["OK"]
    assert await desk.store.dead("w1", [(deliveries["d"], LETTER)]) == ["OK"]
    assert await desk.store.release("w1", [deliveries["e"]]) == ["OK"]
    assert await desk.store.alone("w1", deliveries["f"]) == 1001
    assert desk.beat("w1", [deliveries["g"]], about="{}").lost == []
    desk.age(deliveries["g"])
    assert [d.message_id for d in (await desk.reclaim()).deliveries] == ["g"]
    assert (await desk.store.promote()).moved == 1
    assert len(desk.fetch()) == 2
    await desk.store.ensure()
    assert await desk.store.forget("w9", dead_after_ms=0) == "OK"


# --- add before remove


def use_up(desk, key):
    """Somebody adds an entry with the last id there is: nothing can be added any more."""
    desk.raw("XADD", key, "18446744073709551615-18446744073709551615", "payload", "{}")


async def test_what_cannot_be_put_back_stays(desk):
    """A stream that takes no more: released entries stay pending, and the batch goes on."""
    stuck, good = await desk.deliver(draft("a", "high"), draft("b"))
    use_up(desk, desk.keys.high)
    assert await desk.store.release("w1", [stuck, good]) == ["KEPT", "OK"]
    state = desk.state()
    assert state["pending"] == {stuck.key: ("w1", 1)}
    assert state["ledger"]["released"] == 1
    assert await desk.store.ack([stuck.key]) == 1


async def test_what_cannot_be_promoted_waits_on(desk):
    """It does not stand in the way of what is due behind it, at other levels."""
    await desk.publish(draft("a", "high", delay_ms=FAR), draft("b", delay_ms=FAR))
    desk.make_due("a", 1)
    desk.make_due("b", 2)
    use_up(desk, desk.keys.high)
    before, start = desk.state(), desk.now()
    assert (await desk.store.promote(limit=1)).moved == 0
    assert start + 60_000 <= desk.due_of("a") <= desk.now() + 60_000
    assert (await desk.store.promote(limit=1)).moved == 1
    after = desk.state()
    assert (after["high"], after["delayed"], after["bodies"]) == (before["high"], ["a"], {"a": fields("a", "high")})


async def test_what_cannot_become_a_dead_letter_stays(desk):
    """A letter that cannot be written leaves its message where it is, by whichever way it would die."""
    use_up(desk, desk.keyspace.dead_letter)
    bad = desk.add(entry=[b"x", b"y"])
    held = await desk.deliver(draft("a"), draft("b", delay_ms=FAR))
    desk.make_due("b")
    desk.raw("HSET", desk.keys.messages, "b", "junk")
    for delivery in held:
        desk.age(delivery)
    before = desk.state()
    with pytest.raises(RedisUnavailable):
        await desk.store.dead("w1", [(held[1], LETTER)])
    with pytest.raises(RedisUnavailable):
        await desk.store.promote()
    assert desk.state() == before
    with pytest.raises(RedisUnavailable):
        await desk.reclaim("w2")
    assert {entry for _, entry in desk.state()["pending"]} == {bad, held[1].entry_id}
    desk.raw("DEL", desk.keyspace.dead_letter)


@pytest.mark.parametrize("verdict", ["retry", "dead"])
async def test_a_batch_that_has_nowhere_to_go_notes_nothing(desk, verdict):
    """Of which the first was lost: the next try would count it once more."""
    lost, good = await desk.deliver(draft("a"), draft("b"))
    await desk.store.ack([lost.key])
    target = desk.keys.delayed if verdict == "retry" else desk.keyspace.dead_letter
    desk.raw("SET", target, "x")
    before, outcome = desk.state(), RETRY if verdict == "retry" else LETTER
    with pytest.raises(RedisUnavailable):
        await getattr(desk.store, verdict)("w1", [(lost, outcome), (good, outcome)])
    assert desk.state() == before
    desk.raw("DEL", target)


async def test_what_cannot_be_replayed_stays_a_dead_letter(desk):
    (delivery,) = await desk.deliver(draft("a", "high"))
    await desk.store.dead("w1", [(delivery, LETTER)])
    use_up(desk, desk.keys.high)
    ((letter, _),) = desk.raw("XRANGE", desk.keyspace.dead_letter, "-", "+")
    before = desk.state()
    with pytest.raises(RedisUnavailable):
        await desk.connections.run(script("replay"), desk.keys, [0, letter])
    assert desk.state() == before
