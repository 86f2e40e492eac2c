"""Publishing that waits: for the disk, or for a replica. Who asks for it waits, and nobody else."""

import asyncio

import pytest
import redis

from streamq import DurabilityUnconfirmed, InvalidMessage, QueueFull, StreamQ, settings
from streamq import offer as module
from streamq.core.config import Config, QueueConfig
from streamq.core.errors import RedisUnavailable
from streamq.core.options import Options
from streamq.core.receipt import Receipt
from streamq.core.signing import KeyRing
from streamq.publisher import Publisher
from streamq.store.keys import Keyspace
from streamq.store.url import parse_url
from streamq.testing.server import PrivateServer
from tests.runtime.rig import QUEUE, Wire, soon, turns, until
from tests.support import server_binary

PAYLOAD = b'{"type":"work"}'
CAREFUL = "careful"  # a queue that asks for fsync by itself


class Line(Wire):
    """A wire that also counts what is sent together, and loses such replies when it is told to."""

    def __init__(self, url):
        super().__init__(url)
        self.batches = []
        self.lose = 0

    async def together(self, key, *commands):
        self.batches.append(commands[-1][0])
        replies = await super().together(key, *commands)
        if self.lose:
            self.lose -= 1
            raise RedisUnavailable("the reply was lost")
        return replies


@pytest.fixture(scope="module")
def disk():
    """A server whose disk confirms."""
    args = ["--appendonly", "yes", "--appendfsync", "always"]
    with PrivateServer(server_binary("valkey-9.1"), args=args) as server:
        yield server


@pytest.fixture
async def line(disk):
    with redis.Redis.from_url(disk.url) as client:
        client.flushall()
        client.config_set("appendfsync", "always")
    line = Line(parse_url(disk.url))
    yield line
    await line.aclose()


@pytest.fixture
def offer(line):
    queues = {
        CAREFUL: QueueConfig(name=CAREFUL, durable="fsync"),
        "small": QueueConfig(name="small", durable="fsync", max_length=2),
        "rolling": QueueConfig(name="rolling", durable="fsync", max_length=2, on_full="drop_oldest"),
    }
    publisher = Publisher(line, Keyspace(), Config(queues=queues), KeyRing())

    def offer(queue=QUEUE, **options):
        return publisher.publish(queue, PAYLOAD, Options(**options))

    offer.many = lambda queue, number, **options: publisher.publish_many(queue, [PAYLOAD] * number, Options(**options))
    return offer


@pytest.fixture
def doubtful(disk, line):
    """What the disk is asked is not confirmed."""
    with redis.Redis.from_url(disk.url) as client:
        client.config_set("appendfsync", "everysec")


async def test_memory_asks_for_nothing(line, offer):
    assert not (await offer()).duplicate
    assert (line.sent, line.batches) == (["publish"], [])


async def test_one_confirmation_for_all_of_a_turn(line, offer):
    """Whether the queue asks for it or the message does."""
    receipts = await asyncio.gather(*(offer(CAREFUL, durable=word) for word in (None, "fsync") * 20))
    assert len({receipt.id for receipt in receipts}) == 40
    assert (line.sent, line.batches) == ([], ["WAITAOF"])


async def test_a_message_may_ask_for_less_than_its_queue(line, offer):
    await offer(CAREFUL, durable="memory")
    assert (line.sent, line.batches) == (["publish"], [])


async def test_nobody_waits_for_the_disk_of_others(line, offer, monkeypatch):
    """Not even in the same queue and the same turn of the loop."""
    gate, together = asyncio.Event(), Line.together

    async def slow(self, *args):
        await gate.wait()
        return await together(self, *args)

    monkeypatch.setattr(Line, "together", slow)
    waiting = asyncio.ensure_future(offer(durable="fsync"))
    await soon(offer())
    assert not waiting.done()
    gate.set()
    await soon(waiting)


async def test_an_unconfirmed_message_was_accepted_and_may_be_repeated(disk, line, offer, doubtful):
    with pytest.raises(DurabilityUnconfirmed, match="appendfsync always") as caught:
        await offer(CAREFUL)
    error = caught.value
    assert error.receipts == (Receipt(error.id, CAREFUL),)
    with redis.Redis.from_url(disk.url) as client:
        assert client.xlen(f"queue:{CAREFUL}") == 1
        with pytest.raises(DurabilityUnconfirmed) as again:
            await offer(CAREFUL, message_id=error.id)
        assert again.value.receipts == (Receipt(error.id, CAREFUL, duplicate=True),)
        client.config_set("appendfsync", "always")
        assert await offer(CAREFUL, message_id=error.id) == Receipt(error.id, CAREFUL, duplicate=True)
        assert client.xlen(f"queue:{CAREFUL}") == 1


async def test_an_idempotent_repetition_names_the_first_message(line, offer, doubtful):
    first = await offer(CAREFUL, idempotency_key="k", durable="memory")
    with pytest.raises(DurabilityUnconfirmed) as caught:
        await offer(CAREFUL, idempotency_key="k")
    assert caught.value.id == first.id


async def test_a_lost_reply_is_asked_for_again(line, offer, monkeypatch):
    """The repetition finds its own first try, and that is what is confirmed."""
    monkeypatch.setattr(module, "reconnect_delay", lambda _: 0.0)
    line.lose = 1
    assert not (await soon(offer(CAREFUL))).duplicate
    assert line.batches == ["WAITAOF", "WAITAOF"]


async def test_of_many_all_that_are_unconfirmed_are_told(line, offer, doubtful):
    with pytest.raises(DurabilityUnconfirmed) as caught:
        await offer.many(CAREFUL, 3)
    receipts = caught.value.receipts
    assert len(receipts) == 3
    assert caught.value.ids == tuple(receipt.id for receipt in receipts)


async def test_of_many_some_may_be_refused_and_the_rest_unconfirmed(line, offer, doubtful):
    with pytest.raises(DurabilityUnconfirmed) as caught:
        await offer.many("small", 3)
    *accepted, refused = caught.value.receipts
    assert refused is None
    assert caught.value.ids == tuple(receipt.id for receipt in accepted)


async def test_what_is_refused_is_only_refused(line, offer):
    with pytest.raises(QueueFull) as caught:
        await offer.many("small", 3)
    assert [receipt is None for receipt in caught.value.receipts] == [False, False, True]


async def test_what_made_room_for_itself_is_confirmed_too(line, offer, doubtful, disk):
    """The second try of a call is as good as the first, and as doubtful."""
    with pytest.raises(DurabilityUnconfirmed):
        await offer.many("rolling", 2)
    with redis.Redis.from_url(disk.url) as client:
        client.config_set("appendfsync", "always")
    line.batches.clear()
    assert not (await offer("rolling")).duplicate
    assert line.batches == ["WAITAOF", "WAITAOF"]


async def test_an_unusable_wish_is_refused_before_anything_is_sent(line, offer):
    with pytest.raises(InvalidMessage, match="durable 'disk' should be one of memory, replica, fsync"):
        await offer(durable="disk")
    assert (line.sent, line.batches) == ([], [])


async def test_a_wait_that_is_cut_short_by_its_caller_disturbs_nobody(line, offer):
    first, second = (asyncio.ensure_future(offer(CAREFUL)) for _ in range(2))
    await turns(1)
    first.cancel()
    assert not (await soon(second)).duplicate
    await until(first.done)


async def test_an_app_says_it_in_the_decorator_in_options_and_by_name(disk, line, monkeypatch):
    """The nearest word counts."""
    asked = []

    async def tell(*args, durable, **_):
        asked.append(durable)
        return [b"OK"], ""

    monkeypatch.setattr("streamq.store.streams.run_durably", tell)
    app = StreamQ(settings=settings.Settings(redis_url=disk.url, redis_url_origin="here", config=Config()))

    @app.handler(QUEUE, durable="fsync")
    async def work(): ...

    async with app:
        await work.publish()
        await work.options(durable="replica").publish()
        await app.publish(QUEUE, {"type": "work"}, durable="replica")
        await app.publish_many(QUEUE, [{"type": "work"}], durable="fsync")
        await work.options(durable="memory").publish()
    assert asked == ["fsync", "replica", "replica", "fsync"]
