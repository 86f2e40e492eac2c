"""ensure, evict, purge, audit and tally: the frame around the messages, and what is counted there."""

import pytest

from streamq.core.config import LEVELS
from streamq.core.errors import ConfigError
from streamq.core.ledger import LevelMoment
from streamq.core.outcome import DeadLetter, Reason
from streamq.store.scripts import script
from tests.contract.desk import FAR, GROUP, draft, fields, flat
from tests.contract.test_settle import counted

# --- ensure


async def test_a_queue_gets_one_group_on_all_streams(desk):
    """At 0, so that nothing published before is missed; doing it again changes nothing."""
    desk.raw("FLUSHALL")
    desk.add("low", id="a")
    before = desk.state()
    await desk.store.ensure()
    after = desk.state()
    assert after == before | {"groups": {level: [GROUP] for level in LEVELS}}
    assert [delivery.message_id for delivery in desk.fetch(level="low")] == ["a"]
    pending = desk.state()
    await desk.store.ensure()
    assert desk.state() == pending


@pytest.mark.parametrize("level", LEVELS)
async def test_a_group_that_is_gone_is_made_anew(desk, level):
    """What was pending in it is delivered again: nothing is lost with a group."""
    await desk.deliver(draft("a", level))
    desk.raw("XGROUP", "DESTROY", desk.keys.stream(level), GROUP)
    await desk.store.ensure()
    assert [delivery.message_id for delivery in desk.fetch(level=level)] == ["a"]


async def test_others_may_read_the_dead_letters_in_a_group(desk):
    desk.raw("XGROUP", "CREATE", desk.keyspace.dead_letter, "watchers", 0, "MKSTREAM")
    await desk.store.ensure()
    desk.raw("DEL", desk.keyspace.dead_letter)


@pytest.mark.parametrize("level", LEVELS)
async def test_a_second_group_is_refused(desk, level):
    """Two groups would each get everything and delete the other's work: nothing is made, and the way out is told."""
    desk.raw("FLUSHALL")
    desk.raw("XGROUP", "CREATE", desk.keys.stream(level), "others", "0", "MKSTREAM")
    before = desk.state()
    with pytest.raises(ConfigError, match=f"consumer group 'others'.*XGROUP DESTROY {desk.keys.stream(level)} others"):
        await desk.store.ensure()
    assert desk.state() == before


@pytest.mark.parametrize("key", ["critical", "low", "delayed", "messages", "ledger", "workers", "dead"])
async def test_a_key_of_another_type_is_refused(desk, key):
    """Somebody else's key: nothing is made."""
    desk.raw("FLUSHALL")
    desk.raw("SET", getattr(desk.keys, key), "x")
    before = desk.state()
    with pytest.raises(ConfigError, match="holds a string"):
        await desk.store.ensure()
    assert desk.state() == before
    desk.raw("DEL", getattr(desk.keys, key))


async def test_a_queue_is_registered_once(desk):
    await desk.store.register()
    await desk.store.register()
    assert await desk.names() == {"orders"}


async def test_a_queue_is_registered_without_memory(desk):
    """Or no worker could start to drain it."""
    desk.raw("CONFIG", "SET", "maxmemory", 1)
    await desk.store.register()
    desk.raw("CONFIG", "SET", "maxmemory", 0)
    assert await desk.names() == {"orders"}


# --- evict


async def test_the_oldest_undelivered_of_the_lowest_level_goes(desk):
    """One goes for each that wants room; what is delivered or waits is never taken."""
    await desk.deliver(draft("running", "low"))
    await desk.publish(
        draft("l1", "low"), draft("l2", "low"), draft("n1"), draft("h1", "high"), draft("d", delay_ms=FAR)
    )
    before = desk.state()
    assert await desk.store.evict("normal", max_length=6, wanted=1) == 1
    assert desk.state() == before | {
        "low": [fields("running", "low"), fields("l2", "low")],
        "ledger": counted(before, evicted=1),
    }


async def test_nothing_above_the_newcomer_goes(desk):
    """From the lowest level up to the newcomer's own; then it is full."""
    await desk.publish(draft("h", "high"), draft("n"), draft("l", "low"))
    before = desk.state()
    assert await desk.store.evict("normal", max_length=3, wanted=5) == 2
    assert desk.state() == before | {"normal": [], "low": [], "ledger": counted(before, evicted=2)}
    assert await desk.store.evict("normal", max_length=1, wanted=1) == 0
    assert await desk.store.evict("critical", max_length=1, wanted=1) == 1


async def test_nothing_goes_while_there_is_room(desk):
    """So that a repeated call takes nothing more."""
    await desk.publish(*(draft(f"m{n}") for n in range(4)))
    assert await desk.store.evict("low", max_length=5, wanted=1) == -1
    assert await desk.store.evict("normal", max_length=5, wanted=2) == 1
    before = desk.state()
    assert await desk.store.evict("normal", max_length=5, wanted=2) == -1
    assert desk.state() == before


async def test_no_more_go_than_newcomers_want_in(desk):
    """A queue that others overfilled is not emptied for one newcomer."""
    for _ in range(8):
        desk.add()
    assert await desk.store.evict("normal", max_length=5, wanted=1) == 1
    assert len(desk.state()["normal"]) == 7


async def test_what_is_in_flight_is_told_by_our_group_alone(desk):
    """Another group has read nothing: what our workers hold stays nevertheless."""
    await desk.deliver(draft("a"))
    await desk.publish(draft("b"))
    for other in ("another", "zero"):
        desk.raw("XGROUP", "CREATE", desk.keys.normal, other, 0)
    assert await desk.store.evict("normal", max_length=2, wanted=2) == 1
    assert [entry["id"] for entry in desk.state()["normal"]] == ["a"]


async def test_a_queue_without_a_group_can_make_room(desk):
    """Publishers alone: nothing was delivered yet."""
    desk.raw("FLUSHALL")
    await desk.publish(draft("a"), draft("b", "low"))
    assert await desk.store.evict("normal", max_length=2, wanted=2) == 2
    desk.raw("XGROUP", "CREATE", desk.keys.high, "others", "0", "MKSTREAM")
    await desk.publish(draft("c", "high"))
    assert await desk.store.evict("high", max_length=1, wanted=1) == 1


async def test_a_full_queue_that_drops_the_oldest_takes_the_newest(desk):
    """The way of `on_full: drop_oldest`, at a queue that is full of what waits and runs."""
    await desk.deliver(draft("running"))
    await desk.publish(draft("old"), draft("later", delay_ms=FAR))
    assert await desk.publish(draft("new"), max_length=3) == ["FULL"]
    assert await desk.store.evict("normal", max_length=3, wanted=1) == 1
    assert await desk.publish(draft("new"), max_length=3) == ["OK"]
    assert [entry["id"] for entry in desk.state()["normal"]] == ["running", "new"]
    assert await desk.store.evict("normal", max_length=2, wanted=1) == 1
    assert await desk.store.evict("normal", max_length=2, wanted=1) == 0, "all the rest is in other hands"


# --- purge


async def purge(desk, ids, level="normal"):
    keys = [desk.keys.stream(level), desk.keys.ledger]
    return await desk.connections.run(script("purge"), keys, [GROUP, *ids])


async def test_what_is_pending_is_never_purged(desk):
    """Undelivered entries go and are counted once; what a worker holds is the worker's."""
    (running,) = await desk.deliver(draft("a"))
    await desk.publish(draft("b"))
    ids = [entry.decode() for entry, _ in desk.raw("XRANGE", desk.keys.normal, "-", "+")]
    before = desk.state()
    assert await purge(desk, ids) == 1
    after = before | {"normal": [fields("a")], "ledger": counted(before, purged=1)}
    assert desk.state() == after
    assert await purge(desk, ids) == 0
    assert desk.state() == after
    assert await desk.store.ack([running.key]) == 1


async def test_purged_dead_letters_are_counted_with_them(desk):
    """In the ledger of the dead letters, not in that of a queue."""
    for delivery in await desk.deliver(draft("a"), draft("b")):
        await desk.store.dead("w1", [(delivery, DeadLetter(Reason.REJECTED))])
    before = desk.state()
    (entry, _), _ = desk.raw("XRANGE", desk.keyspace.dead_letter, "-", "+")
    keys = [desk.keyspace.dead_letter, desk.keyspace.dead_letter_ledger]
    assert await desk.connections.run(script("purge"), keys, ["", entry]) == 1
    assert await desk.connections.run(script("purge"), keys, ["", entry]) == 0
    assert desk.state() == before | {"dead": before["dead"][1:]}
    assert desk.raw("HGETALL", desk.keyspace.dead_letter_ledger) == [b"purged", b"1"]


# --- audit


async def test_an_empty_queue_is_balanced(desk):
    """Also where nothing was ever made."""
    desk.raw("FLUSHALL")
    moment = await desk.store.moment()
    assert (moment.delayed, moment.bodies, moment.counters, moment.length, moment.imbalance) == (0, 0, {}, 0, 0)
    assert set(moment.levels.values()) == {LevelMoment(0, 0, 0, None, None, 0)}


async def test_a_moment_shows_the_whole_queue(desk):
    """Depths, ages, counters and what others added, read in one step that changes nothing."""
    (delivery,) = await desk.deliver(draft("a", "high"))
    await desk.publish(draft("b", "high"), draft("c", delay_ms=FAR))
    added = desk.add("low")
    desk.raw("HSET", desk.keys.ledger, "nonsense", "x", "huge", "9" * 5000)
    before = desk.state_of_keys()
    moment = await desk.store.moment()
    assert desk.state_of_keys() == before
    high = moment.levels["high"]
    assert (high.length, high.entries_added, high.pending, high.consumers) == (2, 2, 1, 1)
    assert high.oldest_pending_ms == int(delivery.entry_id.split("-")[0])
    assert high.oldest_ready_ms >= high.oldest_pending_ms
    assert moment.levels["low"].oldest_ready_ms == int(added.split("-")[0])
    assert moment.counters == {"accepted": 3, "added:high": 2}
    assert (moment.delayed, moment.bodies, moment.length, moment.pending, moment.foreign) == (1, 1, 3, 1, 1)
    desk.raw("HDEL", desk.keys.ledger, "nonsense", "huge")


async def test_the_oldest_that_is_ready_is_the_first_undelivered(desk):
    """Whether the last delivered one still lies there, is the last of all, or is gone."""
    (done,) = await desk.deliver(draft("critical 1", "critical"))
    await desk.store.ack([done.key])
    await desk.deliver(draft("high 1", "high"), draft("high 2", "high"), draft("low 1", "low"))
    first = {level: int(desk.add(level).partition("-")[0]) for level in ("critical", "normal", "low")}
    for level in first:
        desk.raw("XADD", desk.keys.stream(level), "9000000000000-0", *flat(fields("later", level)))
    found = (await desk.store.moment()).levels
    assert found["high"].oldest_ready_ms is None
    assert {level: found[level].oldest_ready_ms for level in first} == first


async def test_what_leaves_outside_the_protocol_shows(desk):
    """Deleted entries make the law positive, and it can be written off."""
    await desk.publish(draft("a"), draft("b"), draft("c", delay_ms=FAR))
    desk.raw("XTRIM", desk.keys.normal, "MAXLEN", 1)
    desk.raw("DEL", desk.keys.delayed)
    moment = await desk.store.moment()
    assert (moment.imbalance, moment.body_imbalance) == (2, 1)
    desk.raw("HINCRBY", desk.keys.ledger, "written_off", 2)
    desk.raw("DEL", desk.keys.messages)
    assert (await desk.store.moment()).imbalance == 0


async def test_a_stream_that_was_deleted_shows(desk):
    """Redis forgets what was added: that is an alarm of its own."""
    await desk.publish(draft("a", "high"))
    desk.raw("DEL", desk.keys.high)
    moment = await desk.store.moment()
    assert moment.deleted_streams == ["high"]
    desk.outside = moment.imbalance
    assert desk.outside == 1


async def test_a_moment_of_another_group_shows_no_pending(desk):
    """A second group is not ours to count."""
    await desk.deliver(draft("a"))
    moment = await desk.queue("orders", "others").moment()
    assert (moment.length, moment.pending, moment.levels["normal"].consumers) == (1, 0, 0)


# --- tally


async def test_dead_letters_are_counted_where_they_lie(desk):
    """By the queue they came from, a page at a time, in one reading of each page."""
    for n, queue in enumerate(["a", "b", "a", None, "a"], start=1):
        desk.raw("XADD", desk.keyspace.dead_letter, f"{n}-0", *(["original_queue", queue] if queue else ["x", "y"]))
    reply = await desk.connections.run(script("tally"), [desk.keyspace.dead_letter], ["-", 3])
    assert reply == [b"3-0", b"a", 2, b"b", 1]
    reply = await desk.connections.run(script("tally"), [desk.keyspace.dead_letter], ["(3-0", 3])
    assert reply == [b"", b"", 1, b"a", 1]
    reply = await desk.connections.run(script("tally"), [desk.keyspace.dead_letter], ["(5-0", 3])
    assert reply == [b""]
    desk.raw("DEL", desk.keyspace.dead_letter)
