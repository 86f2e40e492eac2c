"""Publishing: what is offered in one turn is one call, and what a publisher is told is true whatever gets lost."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
import redis

from streamq import InvalidMessage, MessageTooLarge, PublishUnknown, QueueFull, courier, outbox
from streamq import offer as module
from streamq.core.config import Config, WorkerConfig
from streamq.core.errors import ConfigError, RedisUnavailable
from streamq.core.events import Noticed, Observers, Published
from streamq.core.options import Options
from streamq.core.signing import KeyRing
from streamq.publisher import Publisher
from streamq.store.connection import Connections
from streamq.store.keys import Keyspace
from streamq.store.outages import OutOfMemory, RedisRefused
from streamq.store.streams import QueueStore
from streamq.store.url import parse_url
from streamq.testing.clock import VirtualClock
from streamq.testing.server import PrivateServer
from tests.runtime.rig import GROUP, OTHER, QUEUE, Books, Events, Wire, soon, turns, until
from tests.support import server_binary

PAYLOAD = b'{"type":"work"}'


@pytest.fixture
def pauses(monkeypatch):
    """How many failures in a row each pause was asked for; none takes time."""
    asked = []
    monkeypatch.setattr(module, "reconnect_delay", lambda failures: asked.append(failures) or 0.0)
    return asked


class Desk:
    """A publisher, its wire, and what it told."""

    def __init__(self, wire, *, keys=None, clock=None, limits=None, **queue):
        self.wire, self.events, observers = wire, Events(), Observers()
        observers.add(self.events)
        self.observers = observers
        config = Config(defaults=queue, worker=WorkerConfig(**(limits or {})))
        self.publisher = Publisher(
            wire, Keyspace(), config, keys or KeyRing(), observers=observers, clock=clock or VirtualClock()
        )

    def publish(self, payload=PAYLOAD, *, queue=QUEUE, **options):
        return self.publisher.publish(queue, payload, Options(**options))

    def publish_many(self, number, payload=PAYLOAD, **options):
        return self.publisher.publish_many(QUEUE, [payload] * number, Options(**options))

    def calls(self):
        return self.wire.sent.count("publish")


@pytest.fixture
async def make_desk(server):
    wires = []

    def make(**differences):
        wires.append(Wire(parse_url(server.url)))
        return Desk(wires[-1], **differences)

    yield make
    for wire in wires:
        await wire.aclose()


@pytest.fixture
async def desk(make_desk):
    return make_desk()


def filler(size):
    return json.dumps({"type": "work", "filler": "x" * size}).encode()


# --- together


async def test_what_is_published_in_one_turn_is_one_call(desk, books):
    receipts = await asyncio.gather(*(desk.publish() for _ in range(100)))
    assert desk.calls() == 1
    assert books.ready() == [receipt.id for receipt in receipts]
    assert len({receipt.id for receipt in receipts}) == 100
    assert {(receipt.queue, receipt.duplicate) for receipt in receipts} == {(QUEUE, False)}
    assert books.ledger() == {"accepted": 100}


async def test_queues_are_apart(desk, books):
    await asyncio.gather(desk.publish(), desk.publish(queue="mail"))
    assert desk.calls() == 2
    assert len(books.ready()) == len(books.of("mail").raw("XRANGE", books.of("mail").keys.normal, "-", "+")) == 1


async def test_a_call_has_at_most_five_hundred_messages(desk, books):
    await desk.publish_many(500)
    assert desk.calls() == 1
    await desk.publish_many(501)
    assert desk.calls() == 3
    assert books.ledger()["accepted"] == 1001


async def test_a_call_has_at_most_a_mebibyte(make_desk, books):
    """And at least one message, however large that is."""
    desk = make_desk(max_size=1024 * 1024)
    receipts = await desk.publish_many(5, filler(400_000))
    assert desk.calls() == 3
    await desk.publish_many(2, filler(1_000_000))
    assert desk.calls() == 5
    assert books.ready()[:5] == [receipt.id for receipt in receipts]


async def test_what_comes_during_a_call_goes_with_the_next(desk, books):
    desk.wire.gate = asyncio.Event()
    first = asyncio.ensure_future(desk.publish())
    await until(desk.calls)
    others = [asyncio.ensure_future(desk.publish()) for _ in range(10)]
    await turns()
    desk.wire.gate.set()
    await soon(asyncio.gather(first, *others))
    assert desk.calls() == 2


async def test_the_queue_is_known_by_name_before_its_first_message(desk, monkeypatch):
    """Nothing may lie where nobody looks: the register is written first, and once."""
    order = []
    execute, run = desk.wire.execute, desk.wire.run

    async def tell_execute(*command):
        order.append(command)
        return await execute(*command)

    async def tell_run(script, *args):
        order.append(script.name)
        return await run(script, *args)

    monkeypatch.setattr(desk.wire, "execute", tell_execute)
    monkeypatch.setattr(desk.wire, "run", tell_run)
    await desk.publish()
    await desk.publish()
    assert order == [("SADD", "queue:names", QUEUE), "publish", "publish"]


async def test_the_name_is_written_again_now_and_then(desk, books, monkeypatch):
    """A failover or a flush may have lost it."""
    hand = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(courier, "time", SimpleNamespace(monotonic=lambda: hand.seconds))
    await desk.publish()
    books.raw("FLUSHALL")
    hand.seconds += 59
    await desk.publish()
    assert books.raw("SMEMBERS", "queue:names") == []
    hand.seconds += 2
    await desk.publish()
    assert books.raw("SMEMBERS", "queue:names") == [QUEUE.encode()]


async def test_a_name_that_no_queue_may_have_is_refused(desk):
    with pytest.raises(Exception, match="reserved"):
        await desk.publish(queue="dead_letter")


# --- what is written


async def test_an_entry_carries_what_the_protocol_says(make_desk, books):
    desk = make_desk(keys=KeyRing.parse("k1:active:" + "QUFB" * 12))
    receipt = await desk.publish(
        priority="high", max_retries=7, timeout=1.5, expires=timedelta(minutes=1), correlation_id="case",
        created_by="shop", headers={"trace": "t"},
    )  # fmt: skip
    (entry,) = books.entries("high")
    assert list(entry) == ["id", "queue", "priority", "payload", "metadata", "signature"]
    assert (entry["id"], entry["queue"], entry["priority"]) == (receipt.id, QUEUE, "2")
    assert entry["payload"] == PAYLOAD.decode()
    assert entry["signature"].startswith("v1,k1,")
    metadata = json.loads(entry["metadata"])
    created, expires = (datetime.fromisoformat(metadata.pop(name)) for name in ("created_at", "expires_at"))
    assert created.timestamp() == 1_800_000_000
    assert expires - created == timedelta(minutes=1)
    assert metadata == {
        "created_by": "shop", "correlation_id": "case", "max_retries": 7, "timeout": 1500, "headers": {"trace": "t"},
    }  # fmt: skip


async def test_without_a_key_nothing_is_signed(desk, books):
    await desk.publish()
    assert "signature" not in books.entries()[0]


@pytest.mark.parametrize("keys", ["", "k1:accepted:" + "QUFB" * 12, "k1@mail:active:" + "QUFB" * 12])
async def test_what_every_worker_would_refuse_is_not_published(make_desk, keys):
    """The queue takes signed messages only, and no active key covers it."""
    desk = make_desk(keys=KeyRing.parse(keys) if keys else KeyRing(), signing="required")
    with pytest.raises(ConfigError, match="STREAMQ_SIGNING_KEYS"):
        await desk.publish()
    assert desk.wire.sent == []


async def test_an_id_tells_when_it_was_made(desk):
    receipt = await desk.publish()
    assert receipt.id.startswith("msg_")
    assert int(receipt.id[4:16], 16) == 1_800_000_000_000


@pytest.mark.parametrize("delay", [3600, timedelta(hours=1)])
async def test_a_delay_counts_by_the_clock_of_redis(desk, books, delay):
    """This machine's clock stands in the year 2027 here."""
    receipt = await desk.publish(delay=delay)
    assert 3_590_000 < books.delayed()[receipt.id] <= 3_600_000
    metadata = json.loads(books.waiting(receipt.id)["metadata"])
    assert datetime.fromisoformat(metadata["delay_until"]).timestamp() == 1_800_003_600


async def test_a_time_to_wait_for_is_that_time(desk, books):
    due = datetime.now(UTC) + timedelta(hours=2)
    receipt = await desk.publish(delay_until=due)
    assert 7_190_000 < books.delayed()[receipt.id] <= 7_200_000


async def test_a_time_that_has_passed_is_now(desk, books):
    receipt = await desk.publish(delay_until=datetime(2020, 1, 1, tzinfo=UTC))
    assert books.ready() == [receipt.id]


@pytest.mark.parametrize(
    "options",
    [
        {"priority": "urgent"},
        {"delay": -1},
        {"delay": 1, "delay_until": datetime(2030, 1, 1, tzinfo=UTC)},
        {"delay_until": datetime(2030, 1, 1)},  # noqa: DTZ001 - without a zone it is a guess
        {"max_retries": 2.5},
        {"timeout": "soon"},
        {"correlation_id": 5},
        {"headers": {"key": Ellipsis}},
        {"idempotency_key": ""},
        {"message_id": "with a space"},
        {"message_id": ""},
    ],
    ids=str,
)
async def test_what_no_worker_could_accept_is_refused_before_it_is_written(desk, options):
    with pytest.raises(InvalidMessage):
        await desk.publish(**options)
    assert desk.wire.sent == []


async def test_what_is_too_large_is_refused_before_it_is_written(make_desk):
    desk = make_desk(max_size=1000)
    with pytest.raises(MessageTooLarge, match="takes at most 1000"):
        await desk.publish(filler(1000))
    assert desk.wire.sent == []


async def test_nothing_is_larger_than_the_hard_limit(make_desk):
    desk = make_desk(max_size=2 * 1024 * 1024)
    with pytest.raises(MessageTooLarge):
        await desk.publish(filler(1024 * 1024))


# --- full


async def test_a_full_queue_rejects(make_desk, books):
    desk = make_desk(max_length=2)
    await desk.publish()
    await desk.publish(delay=3600)
    with pytest.raises(QueueFull, match="holds 2 messages"):
        await desk.publish()
    assert books.ledger() == {"accepted": 2}


async def test_a_full_queue_may_be_waited_for(make_desk, books, monkeypatch):
    monkeypatch.setattr(module, "FULL_PAUSE", 0.001)
    desk = make_desk(max_length=1, on_full="block")
    await desk.publish()
    waiting = asyncio.ensure_future(desk.publish())
    await until(lambda: desk.calls() >= 4)
    assert not waiting.done()
    books.raw("XTRIM", books.keys.normal, "MAXLEN", 0)
    receipt = await soon(waiting)
    assert books.ready() == [receipt.id]


async def test_patience_with_a_full_queue_runs_out(make_desk, monkeypatch):
    monkeypatch.setattr(module, "FULL_PAUSE", 0.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: 10.0 * desk.calls()))
    desk = make_desk(max_length=1, on_full="block", block_timeout=30.0)
    await desk.publish()
    with pytest.raises(QueueFull):
        await soon(desk.publish())
    assert desk.calls() == 4


async def test_a_full_queue_may_let_the_oldest_go(make_desk, books):
    """Counted and told: a message was given up."""
    desk = make_desk(max_length=2, on_full="drop_oldest")
    first = await desk.publish()
    second = await desk.publish()
    third = await desk.publish()
    assert books.ready() == [second.id, third.id]
    assert first.id not in books.ready()
    assert books.ledger() == {"accepted": 3, "evicted": 1}
    (noticed,) = desk.events.of(Noticed)
    assert "1 undelivered" in noticed.text


async def test_what_is_more_urgent_is_not_let_go(make_desk, books):
    desk = make_desk(max_length=1, on_full="drop_oldest")
    await desk.publish(priority="critical")
    with pytest.raises(QueueFull):
        await desk.publish(priority="low")
    assert len(books.entries("critical")) == 1


async def test_what_is_in_flight_is_not_let_go(make_desk, books):
    desk = make_desk(max_length=1, on_full="drop_oldest")
    await QueueStore(desk.wire, Keyspace(), QUEUE, GROUP).ensure()
    await desk.publish()
    books.raw("XREADGROUP", "GROUP", GROUP, OTHER, "STREAMS", books.keys.normal, ">")
    with pytest.raises(QueueFull):
        await soon(desk.publish())


async def test_a_burst_of_messages_makes_room_for_all_of_them(make_desk, books):
    desk = make_desk(max_length=10, on_full="drop_oldest")
    await desk.publish_many(10)
    receipts = await soon(desk.publish_many(7))
    assert books.ready()[3:] == [receipt.id for receipt in receipts]
    assert books.ledger() == {"accepted": 17, "evicted": 7}


async def test_redis_without_memory_is_a_full_queue(desk, raw):
    raw("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(QueueFull, match="out of memory"):
        await soon(desk.publish())


async def test_memory_may_be_waited_for(make_desk, raw, monkeypatch):
    monkeypatch.setattr(module, "FULL_PAUSE", 0.001)
    desk = make_desk(on_full="block")
    await desk.publish()
    raw("CONFIG", "SET", "maxmemory", 1)
    waiting = asyncio.ensure_future(desk.publish())
    await until(lambda: desk.calls() >= 3)
    raw("CONFIG", "SET", "maxmemory", 0)
    await soon(waiting)


# --- once


async def test_an_idempotency_key_is_taken_once(desk, books):
    first = await desk.publish(idempotency_key="order 7")
    again = await desk.publish(idempotency_key="order 7")
    other = await desk.publish(idempotency_key="order 8")
    assert (first.duplicate, again.duplicate, other.duplicate) == (False, True, False)
    assert again.id == first.id != other.id
    assert books.ledger()["accepted"] == 2


async def test_an_idempotency_key_counts_inside_one_call_too(desk, books):
    receipts = await asyncio.gather(*(desk.publish(idempotency_key="k") for _ in range(3)))
    assert [receipt.duplicate for receipt in receipts] == [False, True, True]
    assert len({receipt.id for receipt in receipts}) == 1


async def test_an_id_of_ones_own_is_taken_once(desk, books):
    first = await desk.publish(message_id="mine")
    again = await desk.publish(message_id="mine")
    assert (first.id, first.duplicate, again.id, again.duplicate) == ("mine", False, "mine", True)
    assert books.ready() == ["mine"]


async def test_what_happened_is_told(make_desk):
    desk = make_desk(max_length=2)
    offers = (desk.publish(message_id=name) for name in ("a", "a", "b", "c"))
    await asyncio.gather(*offers, return_exceptions=True)
    assert desk.events.of(Published) == [Published(QUEUE, 2, 1, 1)]
    desk.observers.routine = ()
    await asyncio.gather(desk.publish(message_id="a"))
    assert len(desk.events.of(Published)) == 1


async def test_what_redis_refused_is_not_told_as_a_duplicate(desk, monkeypatch):
    async def refuse(*_, **__):
        return ["OK", "ERR no"]

    monkeypatch.setattr(QueueStore, "publish", refuse)
    first, second = await asyncio.gather(desk.publish(), desk.publish(), return_exceptions=True)
    assert not first.duplicate
    assert isinstance(second, RedisUnavailable)
    assert desk.events.of(Published) == [Published(QUEUE, 1, 0, 1)]


# --- outages


@pytest.mark.parametrize("fault", ["cut", "mute"])
async def test_a_try_whose_reply_was_lost_is_repeated_by_its_id(desk, books, pauses, fault):
    """Exactly one entry, and a receipt that does not call it a duplicate."""
    setattr(desk.wire, fault, 3)
    receipt = await soon(desk.publish())
    assert not receipt.duplicate
    assert books.ready() == [receipt.id]
    assert pauses == [1, 2, 3]


async def test_a_repetition_of_ones_own_id_is_called_a_duplicate(desk, books, pauses):
    """Whether it was this call or an earlier one nobody can say; the message is there once."""
    desk.wire.mute = 1
    receipt = await soon(desk.publish(message_id="mine"))
    assert receipt.duplicate
    assert books.ready() == ["mine"]


async def test_it_gives_up_while_the_id_is_surely_remembered(make_desk, pauses, monkeypatch):
    """At half of the window: no pause may lead beyond it. The error names the id with which it is safe to go on."""
    desk = make_desk(limits={"seen_window": 100.0})
    hand = SimpleNamespace(seconds=0.0)

    async def sleep(seconds):
        hand.seconds += seconds

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: hand.seconds))
    monkeypatch.setattr(outbox, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": sleep}))
    monkeypatch.setattr(module, "reconnect_delay", lambda failures: 20.0)
    desk.wire.cut = 1000
    with pytest.raises(PublishUnknown) as raised:
        await soon(desk.publish())
    assert raised.value.id.startswith("msg_")
    assert hand.seconds == 50
    assert desk.calls() == 4
    desk.wire.cut = 0
    assert (await desk.publish(message_id=raised.value.id)).id == raised.value.id


@pytest.mark.parametrize("error", [OutOfMemory("OOM"), RedisRefused("NOPERM")], ids=str)
async def test_a_refusal_after_a_lost_reply_is_no_answer_to_that_try(desk, pauses, monkeypatch, error):
    """The first try may have been accepted: to say that it was refused would be a guess."""
    publish = QueueStore.publish

    async def refuse(*_, **__):
        raise error

    async def lose(self, drafts, **options):
        await publish(self, drafts, **options)
        monkeypatch.setattr(QueueStore, "publish", refuse)
        raise RedisUnavailable("the reply was lost")

    monkeypatch.setattr(QueueStore, "publish", lose)
    with pytest.raises(PublishUnknown) as raised:
        await soon(desk.publish())
    monkeypatch.setattr(QueueStore, "publish", publish)
    assert (await desk.publish(message_id=raised.value.id)).duplicate


async def test_what_redis_will_never_do_is_not_repeated(desk, books, pauses):
    books.raw("SET", books.keys.normal, "theirs")
    with pytest.raises(RedisRefused):
        await soon(desk.publish())
    assert (desk.calls(), pauses) == (1, [])


async def test_an_outage_while_room_is_made_ends_in_one_answer(make_desk, books, pauses):
    """Nothing is accepted twice, and nothing is let go in vain."""
    desk = make_desk(max_length=1, on_full="drop_oldest")
    await desk.publish()
    evict, sent = desk.wire.run, []

    async def lose_one(script, *args):
        reply = await evict(script, *args)
        sent.append(script.name)
        if sent.count("evict") == 1 and script.name == "evict":
            raise RedisUnavailable("lost")
        return reply

    desk.wire.run = lose_one
    receipt = await soon(desk.publish())
    assert books.ready() == [receipt.id]
    assert books.ledger() == {"accepted": 2, "evicted": 1}


async def test_a_bug_is_told_to_whoever_waits_and_to_nobody_behind(desk, monkeypatch):
    """What was not part of that call goes on."""
    publish = QueueStore.publish

    async def fail_once(self, drafts, **options):
        monkeypatch.setattr(QueueStore, "publish", publish)
        await turns()
        raise TypeError("bug")

    monkeypatch.setattr(QueueStore, "publish", fail_once)
    first = asyncio.ensure_future(desk.publish())
    await turns(3)
    second = asyncio.ensure_future(desk.publish())
    with pytest.raises(TypeError, match="bug"):
        await soon(first)
    assert not (await soon(second)).duplicate


async def test_a_restart_of_the_server_leaves_exactly_one_entry(monkeypatch):
    """With real connections: the publisher waits for the server and repeats by id."""
    monkeypatch.setattr(module, "reconnect_delay", lambda failures: 0.02)
    with PrivateServer(server_binary("valkey-9.1"), args=["--appendonly", "yes"]) as server:
        wire = Connections(parse_url(server.url))
        desk = Desk(wire)
        await desk.publish()
        await asyncio.to_thread(server.stop)
        publishing = asyncio.gather(*(desk.publish() for _ in range(10)))
        await turns()
        await asyncio.to_thread(server.start)
        receipts = await soon(publishing)
        with redis.Redis.from_url(server.url, protocol=2) as client:
            client.response_callbacks.clear()
            books = Books(client.execute_command)
            assert sorted(books.ready()[1:]) == sorted(receipt.id for receipt in receipts)
            assert books.ledger()["accepted"] == 11
        await wire.aclose()


# --- many


async def test_many_messages_are_receipted_in_their_order(desk, books):
    receipts = await desk.publish_many(3)
    assert [receipt.id for receipt in receipts] == books.ready()
    assert desk.calls() == 1


async def test_none_of_many_is_nothing(desk):
    assert await desk.publish_many(0) == []
    assert desk.wire.sent == []


async def test_of_many_those_that_fit_are_receipted(make_desk, books):
    desk = make_desk(max_length=2)
    with pytest.raises(QueueFull, match="2 of 4 messages") as raised:
        await desk.publish_many(4)
    first, second, *rest = raised.value.receipts
    assert [first.id, second.id] == books.ready()
    assert rest == [None, None]


async def test_of_many_the_first_outage_is_told(desk, books):
    """Also when some others were only refused for want of room."""
    books.raw("SET", books.keys.normal, "theirs")
    with pytest.raises(RedisRefused):
        await soon(desk.publish_many(3))


async def test_of_many_one_that_is_unusable_keeps_all_back(make_desk, books):
    desk = make_desk(max_size=1000)
    with pytest.raises(MessageTooLarge):
        await desk.publisher.publish_many(QUEUE, [PAYLOAD, filler(1000)], Options())
    assert desk.wire.sent == []


@pytest.mark.parametrize("option", ["message_id", "idempotency_key"])
async def test_many_cannot_share_what_makes_a_message_one(desk, option):
    """All but the first would silently be duplicates."""
    with pytest.raises(InvalidMessage, match="cannot share"):
        await desk.publish_many(2, **{option: "one"})


# --- cancelled


async def test_a_publisher_that_is_cancelled_disturbs_nobody(desk, books):
    """Not even when it was the first of its call."""
    desk.wire.gate = asyncio.Event()
    tasks = [asyncio.ensure_future(desk.publish()) for _ in range(3)]
    await until(desk.calls)
    tasks[0].cancel()
    desk.wire.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await soon(tasks[0])
    receipts = await soon(asyncio.gather(*tasks[1:]))
    assert [receipt.id for receipt in receipts] == books.ready()[1:]
    await desk.publish()


async def test_an_outage_tells_nobody_who_was_cancelled(desk, pauses):
    desk.wire.gate, desk.wire.cut = asyncio.Event(), 1
    tasks = [asyncio.ensure_future(desk.publish()) for _ in range(2)]
    await until(desk.calls)
    tasks[0].cancel()
    await turns()
    desk.wire.gate.set()
    assert not (await soon(tasks[1])).duplicate


async def test_memory_that_runs_out_is_no_outage(desk, pauses, monkeypatch):
    """It is answered at once, and does not count towards giving up."""

    async def refuse(*_, **__):
        raise OutOfMemory("OOM")

    monkeypatch.setattr(QueueStore, "publish", refuse)
    with pytest.raises(QueueFull):
        await soon(desk.publish())
    assert pauses == []
