"""Looking at queues and dead letters: what the commands do not show by themselves."""

import itertools

import pytest

from streamq.core.config import Config, QueueConfig
from streamq.core.errors import RedisUnavailable
from streamq.core.signing import KeyRing
from streamq.store import inspect, replies
from streamq.store.audit import Auditor
from streamq.store.connection import Connections
from streamq.store.dead_letters import BATCH, DeadLetters, Filter
from streamq.store.inspect import PAGE, Inspector, unhealthy
from streamq.store.keys import Keyspace
from streamq.store.server import Server
from streamq.store.url import parse_url


@pytest.fixture
async def connections(server):
    connections = Connections(parse_url(server.url))
    yield connections
    await connections.aclose()


@pytest.fixture
def inspector(connections):
    return Inspector(connections, Keyspace(), Config())


async def letters(connections, count, **more):
    fields = {"original_queue": "mail", "payload": '{"type":"t"}', **more}
    flat = list(itertools.chain.from_iterable(fields.items()))
    for n in range(count):
        await connections.execute("XADD", "queue:dead_letter", "*", "original_id", f"m{n}", *flat)
    await connections.execute("SADD", "queue:names", "mail")


async def test_more_letters_than_a_page_are_all_counted_and_moved(connections, inspector):
    """In calls that are each too short to hold up others."""
    await letters(connections, PAGE + 1)
    assert await inspector.dead_by_queue() == {"mail": PAGE + 1}
    box = DeadLetters(connections, Keyspace(), KeyRing())
    found = [letter async for letter in box.list()]
    assert [letter.text("original_id") for letter in found] == [f"m{n}" for n in range(PAGE + 1)]
    told = []
    assert await box.replay(found[: BATCH + 1], progress=told.append) == {"OK": BATCH + 1}
    assert told == [BATCH, 1]
    assert await box.purge(found, progress=told.append) == PAGE - BATCH


async def test_letters_are_found_by_their_own_ids_without_a_scan(connections):
    """In the order of their age, whichever order they were asked for in."""
    await letters(connections, 3)
    box = DeadLetters(connections, Keyspace(), KeyRing())
    first, second, third = [letter.dlq_id async for letter in box.list()]
    chosen = Filter(ids=frozenset({third, first}))
    assert [letter.dlq_id async for letter in box.list(chosen)] == [first, third]
    assert (await box.get(second)).text("original_id") == "m1"
    assert await box.get("9" * 30 + "-1") is None


async def test_a_letter_of_plain_make_may_always_go_back(connections):
    """Neither signed nor unreadable, and nobody here has keys."""
    await letters(connections, 1, reason="rejected")
    box = DeadLetters(connections, Keyspace(), KeyRing())
    (letter,) = [letter async for letter in box.list()]
    assert await box.refusal(letter) is None
    assert letter.slim().fields == {b"original_queue": b"mail"}


async def test_a_dead_letter_that_moves_meanwhile_is_no_difference(connections, inspector, monkeypatch):
    """The books and the stream are two reads: what does not add up is read again."""
    auditor = Auditor(connections, Keyspace(), inspector)
    await connections.execute("SADD", "queue:names", "mail")
    await connections.execute("HSET", "{queue:mail}:ledger", "accepted", 1, "dead", 1)
    reads = []

    async def read():
        balance = await Auditor._dead_letters(auditor)
        if not reads:
            await letters(connections, 1)
        reads.append(balance.imbalance)
        return balance

    monkeypatch.setattr(auditor, "_dead_letters", read)
    assert (await auditor.dead_letters()).imbalance == 0
    assert reads == [1, 0]


async def test_a_name_that_a_scan_shows_twice_is_named_once(connections, inspector, monkeypatch):
    pages = [(b"7", [(b"m1", 1.0), (b"m2", 1.0)]), (b"0", [(b"m1", 1.0), (b"m1~low-1-0", 1.0)])]

    async def execute(*_):
        return pages.pop(0)

    monkeypatch.setattr(connections, "execute", execute)
    assert await inspector.waiting_under("mail", ["m1", "m3"]) == {"m1": ["m1", "m1~low-1-0"], "m3": []}


async def test_groups_that_cannot_be_read_are_no_missing_groups(connections):
    server = Server(connections, Keyspace())
    assert await server.groups("mail") == {}
    await connections.execute("SET", "queue:mail", "a string")
    with pytest.raises(RedisUnavailable):
        await server.groups("mail")


async def test_a_queue_is_healthy_within_its_limits(connections, inspector):
    for level in ("queue:mail", "{queue:mail}:high"):
        await connections.execute("XGROUP", "CREATE", level, "streamq", "0", "MKSTREAM")
        for _ in range(2):
            await connections.execute("XADD", level, "*", "payload", "{}")
        await connections.execute("XREADGROUP", "GROUP", "streamq", "w", "COUNT", 1, "STREAMS", level, ">")
    (stats,) = await inspector.stats(["mail"])
    config = QueueConfig(name="mail", healthy_below=2, healthy_pending_below=2)
    assert unhealthy(stats, config) == [
        "2 messages wait, healthy are fewer than 2",
        "2 are in flight, healthy are fewer than 2",
        "4 messages and no worker",
    ]
    (worker,) = await inspector.workers("mail")
    assert (worker.consumer, worker.pending) == ("w", 2)


def test_what_a_consumer_holds_reads_the_same_in_every_shape():
    """As redis-py parses it, and as Redis writes it."""
    parsed = {"consumers": [{"name": b"w", "pending": 2}]}
    assert inspect._pending_by_consumer(parsed) == {"w": 2}
    assert inspect._pending_by_consumer([2, b"1-0", b"2-0", [[b"w", b"2"]]]) == {"w": 2}
    assert inspect._pending_by_consumer([0, None, None, None]) == {}


def test_replies_read_the_same_in_every_shape():
    """RESP2 and RESP3, raw and parsed."""
    assert replies.pairs([b"a", 1, b"b", 2]) == replies.pairs({b"a": 1, b"b": 2}) == [(b"a", 1), (b"b", 2)]
    scored = [(b"m", 1.5), (b"n", 2.0)]
    assert replies.scores([b"m", b"1.5", b"n", b"2"]) == replies.scores([[b"m", 1.5], (b"n", 2)]) == scored
    assert replies.scores([]) == []
    assert replies.text(b"\xff") == replies.text("\ufffd")
    assert [replies.counter(raw) for raw in (None, b"7", b"-7", b"1e3", b"9" * 17)] == [0, 7, 0, 0, 0]
    assert replies.seconds([7, 500000]) == replies.seconds((b"7", b"500000")) == 7.5
