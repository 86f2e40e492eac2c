"""Looking: what stats, workers, delayed messages and the books show, and that looking changes nothing."""

import pytest

from streamq.core.config import Config, QueueConfig
from streamq.core.errors import RedisUnavailable
from streamq.core.outcome import DeadLetter, Reason, Retry, Wait
from streamq.store import delayed, inspect
from streamq.store.audit import Auditor, DeadBalance
from streamq.store.delayed import DelayedMessage, read_packed
from streamq.store.inspect import Inspector, QueueStats, WorkerInfo, unhealthy
from streamq.store.keys import Keyspace
from streamq.store.outages import GroupMissing
from streamq.store.replies import counter, member, number, pairs, scores, seconds, text
from tests.contract.desk import FAR, GROUP, SILENT, draft

CONFIG = Config(queues={"orders": QueueConfig(name="orders", consumer_group=GROUP)})
LETTER = DeadLetter(Reason.REJECTED)


@pytest.fixture
def inspector(desk):
    return Inspector(desk.connections, desk.keyspace, CONFIG)


@pytest.fixture
def auditor(desk, inspector):
    return Auditor(desk.connections, desk.keyspace, inspector)


async def unchanged(desk, look):
    before = desk.state_of_keys()
    found = await look
    assert desk.state_of_keys() == before
    return found


# --- how queues stand


async def test_an_unused_queue_stands_at_zero(desk, inspector):
    """Also where nothing was ever made; its name is known only once it was used."""
    desk.raw("FLUSHALL")
    assert await inspector.names() == []
    (stats,) = await unchanged(desk, inspector.stats(["orders"]))
    assert stats == QueueStats("orders", 0, 0, 0, 0, None, None, 0, 0, 0)
    await desk.store.register()
    await desk.queue("another").register()
    assert await inspector.names() == ["another", "orders"]


async def test_stats_show_where_messages_are(desk, inspector):
    first, second, third = await desk.deliver(draft("a"), draft("b", "high"), draft("c", "low"))
    await desk.store.dead("w1", [(second, LETTER)])
    await desk.store.ack([third.key])
    await desk.publish(draft("d"), draft("e", "low"), draft("f", delay_ms=FAR))
    desk.add()
    desk.beat("w1")
    desk.beat("gone")
    desk.silence("gone", 60_000)
    (stats,) = await unchanged(desk, inspector.stats(["orders"]))
    assert 0 <= stats.oldest_ready_age_s <= stats.oldest_pending_age_s < 60
    assert stats == QueueStats(
        "orders", ready=3, pending=1, delayed=1, dead=1, oldest_ready_age_s=stats.oldest_ready_age_s,
        oldest_pending_age_s=stats.oldest_pending_age_s, consumers=1, accepted=7, done=1,
    )  # fmt: skip
    assert (await inspector.moment("orders")).pending == 1
    assert first.entry_id


async def test_dead_letters_are_counted_by_queue(desk, inspector, monkeypatch):
    """Over pages; counted again only when something came or went."""
    monkeypatch.setattr(inspect, "PAGE", 2)
    assert await inspector.dead_by_queue() == {}
    for queue in ("a", "b", "a", "a", "b"):
        desk.raw("XADD", desk.keyspace.dead_letter, "*", "original_queue", queue)
    assert await unchanged(desk, inspector.dead_by_queue()) == {"a": 3, "b": 2}
    monkeypatch.setattr(inspect, "script", None)  # a second count would need it
    assert await inspector.dead_by_queue() == {"a": 3, "b": 2}
    monkeypatch.undo()
    desk.raw("XADD", desk.keyspace.dead_letter, "*", "original_queue", "b")
    assert await inspector.dead_by_queue() == {"a": 3, "b": 3}
    desk.raw("DEL", desk.keyspace.dead_letter)


async def test_in_a_cluster_dead_letters_on_their_way_count_too(desk):
    keyspace = Keyspace(clustered=True)
    inspector = Inspector(desk.connections, keyspace, CONFIG)
    await desk.store.register()
    for stream in (keyspace.dead_letter, keyspace.queue("orders").dead):
        desk.raw("XADD", stream, "*", "original_queue", "orders")
    assert await inspector.dead_by_queue() == {"orders": 2}
    desk.raw("DEL", keyspace.dead_letter)


@pytest.mark.parametrize(
    ("stats", "reasons"),
    [
        ({}, 0), ({"ready": 9, "consumers": 1}, 0), ({"ready": 10, "consumers": 1}, 1),
        ({"pending": 5, "consumers": 1}, 1), ({"ready": 1}, 1), ({"pending": 1}, 1), ({"ready": 10, "pending": 5}, 3),
    ],
)  # fmt: skip
def test_health_is_a_rule(stats, reasons):
    """Too many wait, too many are in flight, or nobody is there for those that are."""
    zero = dict.fromkeys(("ready", "pending", "delayed", "dead", "consumers", "accepted", "done"), 0)
    shown = QueueStats("orders", oldest_ready_age_s=None, oldest_pending_age_s=None, **(zero | stats))
    config = QueueConfig(name="orders", healthy_below=10, healthy_pending_below=5)
    assert len(unhealthy(shown, config)) == reasons


# --- workers


async def test_workers_say_what_they_are(desk, inspector):
    """Alive or silent, with what they hold; also one that holds entries and never beat."""
    desk.beat("w1", about='{"slots":4,"types":["t"],"started_ms":5,"more":1}')
    desk.beat("w2")
    desk.silence("w2", SILENT + 5000)
    await desk.deliver(draft("a"), draft("b", "low"), consumer="w1")
    await desk.deliver(draft("c"), consumer="mute")
    mute, first, second = await unchanged(desk, inspector.workers("orders"))
    assert mute == WorkerInfo("mute", "orders", alive=False, beat_age_s=None, pending=1)
    assert (first.consumer, first.alive, first.pending, first.slots) == ("w1", True, 2, 4)
    assert (first.types, first.started_ms) == (["t"], 5)
    assert (second.consumer, second.alive, second.pending, second.slots) == ("w2", False, 0, None)
    assert second.beat_age_s >= SILENT / 1000


async def test_a_queue_without_a_group_has_no_workers(desk, inspector):
    desk.raw("FLUSHALL")
    assert await inspector.workers("orders") == []


@pytest.mark.parametrize("about", ["", "x", "[1]", "7", "{}"])
async def test_nonsense_about_a_worker_is_nothing(desk, inspector, about):
    """Anybody may have written it."""
    desk.raw("HSET", desk.keys.workers, "w1", "9" * 5000, "!about:w1", about, b"\xff", "x")
    workers = {worker.consumer: worker for worker in await inspector.workers("orders")}
    assert set(workers) == {"w1", "\ufffd"}
    assert (workers["w1"].alive, workers["w1"].slots) == (False, None)


async def test_an_outage_is_not_an_empty_queue(desk, inspector, monkeypatch):
    """Only a missing group means that nothing is pending."""
    real = desk.connections.execute

    async def execute(*command):
        if command[0] == "XPENDING":
            raise RedisUnavailable("gone")
        return await real(*command)

    monkeypatch.setattr(desk.connections, "execute", execute)
    with pytest.raises(RedisUnavailable):
        await inspector.workers("orders")
    assert issubclass(GroupMissing, RedisUnavailable)


# --- what waits


async def test_delayed_messages_are_shown_the_next_one_first(desk, inspector, monkeypatch):
    """With what can be read of them, a page at a time, as many as asked for."""
    monkeypatch.setattr(delayed, "PAGE", 2)
    await desk.publish(*(draft(name, delay_ms=FAR, retry_count=n) for n, name in enumerate("abc")))
    await desk.publish(draft("x", "low", delay_ms=FAR), draft("y", delay_ms=FAR))
    for n, name in enumerate("cab"):
        desk.make_due(name, n)
    desk.raw("HSET", desk.keys.messages, "x", "junk", "y", b"7:payload,1:{,11:retry_count,3:-1x,")
    desk.raw("ZADD", desk.keys.delayed, "XX", "inf", "y")
    found = [shown async for shown in inspector.delayed("orders")]
    assert [(shown.id, shown.type, shown.priority, shown.retry_count) for shown in found] == [
        ("c", "t", "normal", 2), ("a", "t", "normal", 0), ("b", "t", "normal", 1), ("x", None, None, 0),
        ("y", None, None, 0),
    ]  # fmt: skip
    assert found[0] == DelayedMessage("c", "orders", 0, "t", "normal", 2)
    assert isinstance(found[-1].due_ms, int)
    assert [shown.id async for shown in inspector.delayed("orders", limit=3)] == ["c", "a", "b"]


async def test_messages_are_found_under_every_name_they_wait_by(desk, inspector):
    """The id itself, and the second name of another with the same id; special characters mean themselves."""
    await desk.publish(*(draft(name, delay_ms=FAR) for name in ("a", "ab", "x.y-z:1")))
    desk.add(id="a")
    (second,) = desk.fetch()
    await desk.store.retry("w1", [(second, Retry(Wait.RETRIED, FAR))])
    doubled = f"a~normal-{second.entry_id}"
    assert await inspector.waiting_under("orders", ["a"]) == {"a": ["a", doubled]}
    assert await inspector.waiting_under("orders", [doubled]) == {doubled: [doubled]}
    assert await inspector.waiting_under("orders", ["x.y-z:1"]) == {"x.y-z:1": ["x.y-z:1"]}
    assert await inspector.waiting_under("orders", ["[a]*?"]) == {"[a]*?": []}
    found = await inspector.waiting_under("orders", ["a", "ab", "none"])
    assert {name: sorted(names) for name, names in found.items()} == {"a": ["a", doubled], "ab": ["ab"], "none": []}


@pytest.mark.parametrize(
    ("packed", "fields"),
    [
        (b"", {}), (b"1:a,1:b,", {b"a": b"b"}), (b"1:a,", {}), (b"1:a,9:b,", {}), (b"x:a,", {}), (b"junk", {}),
        (b"1:a,1:b", {}), (b"0:,0:,", {b"": b""}), (b"1234567890:a,", {}),
    ],
)  # fmt: skip
def test_packed_entries_are_read_or_are_nothing(packed, fields):
    assert read_packed(packed) == fields


# --- the books


async def test_the_books_of_dead_letters(desk, auditor):
    """Over all queues: what died, less what went back, was purged or booked off, is what lies there."""
    await desk.store.register()
    for delivery in await desk.deliver(draft("a"), draft("b"), draft("c")):
        await desk.store.dead("w1", [(delivery, LETTER)])
    ids = [entry for entry, _ in desk.raw("XRANGE", desk.keyspace.dead_letter, "-", "+")]
    desk.raw("XDEL", desk.keyspace.dead_letter, ids[0])
    balance = await unchanged(desk, auditor.dead_letters())
    assert balance == DeadBalance(dead=3, replayed=0, purged=0, written_off=0, length=2)
    assert balance.imbalance == 1
    await auditor.write_off_dead_letters(1)
    assert (await auditor.dead_letters()).imbalance == 0
    assert (await auditor.queue("orders")).imbalance == 0
    desk.raw("HINCRBY", desk.keys.ledger, "dead", -1)  # for the law at the end: one letter was taken away
    desk.outside = 1


async def test_a_difference_of_a_queue_can_be_booked_off(desk, auditor):
    await desk.publish(draft("a"))
    desk.raw("XTRIM", desk.keys.normal, "MAXLEN", 0)
    assert (await auditor.queue("orders")).imbalance == 1
    await auditor.write_off("orders", 1)
    assert (await auditor.queue("orders")).imbalance == 0


async def test_in_a_cluster_the_books_count_what_is_on_its_way(desk):
    keyspace = Keyspace(clustered=True)
    auditor = Auditor(desk.connections, keyspace, Inspector(desk.connections, keyspace, CONFIG))
    await desk.store.register()
    (delivery,) = await desk.deliver(draft("a"))
    store = Inspector(desk.connections, keyspace, CONFIG).store("orders")
    assert await store.dead("w1", [(delivery, LETTER)]) == ["OK"]
    assert (await auditor.dead_letters()).length == 1
    desk.raw("RENAME", keyspace.queue("orders").dead, desk.keyspace.dead_letter)
    assert (await auditor.dead_letters()).length == 1


# --- replies


def test_replies_of_both_protocol_versions_are_read():
    """Maps and flat lists, bytes and text, pairs and flat scores."""
    assert pairs({"a": 1}) == [("a", 1)]
    assert pairs([b"a", 1]) == [(b"a", 1)]
    assert member({"name": "x"}, "name") == member([b"name", b"x"], "name") == "x"
    assert scores([b"a", b"1.5"]) == scores([[b"a", 1.5]]) == [(b"a", 1.5)]
    assert scores([]) == []
    assert text(b"a\xff") == "a\ufffd"
    assert text("a") == "a"
    assert seconds((5, 500_000)) == seconds([b"5", b"500000"]) == 5.5


def test_numbers_of_others_are_numbers_or_nothing():
    assert [number(raw) for raw in (None, b"", b"-5", b"7", b"x", b"1.5", b"9" * 19)] == [
        None,
        None,
        -5,
        7,
        None,
        None,
        None,
    ]
    assert [counter(raw) for raw in (None, b"", b"-5", b"7", b"x", b"9" * 17)] == [0, 0, 0, 7, 0, 0]
