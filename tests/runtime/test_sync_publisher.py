"""Publishing without an event loop: the promises of the asyncio publisher, kept by threads that block."""

import asyncio
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from streamq import (
    DurabilityUnconfirmed,
    InvalidMessage,
    MessageTooLarge,
    PublishUnknown,
    QueueFull,
    Receipt,
    StreamQ,
    offer,
)
from streamq.core.config import Config
from streamq.core.errors import ConfigError, RedisUnavailable
from streamq.core.events import Published
from streamq.settings import Settings
from streamq.store.outages import RedisRefused
from streamq.testing.server import PrivateServer
from tests.runtime.rig import QUEUE, Events
from tests.servers.proxy import FaultProxy
from tests.support import server_binary, wait_until

WORK = {"type": "work"}
KEY = "k1:active:" + "QUFB" * 12


@pytest.fixture
def app(make_app):
    app = make_app(signing_keys=KEY)
    with app.sync:
        yield app


@pytest.fixture
def make(make_app):
    """Make apps that are closed at the end."""
    apps = []

    def make(**differences):
        apps.append(make_app(**differences))
        return apps[-1]

    yield make
    for app in apps:
        app.sync.close()


@pytest.fixture
def pauses(monkeypatch):
    """How many failures in a row each pause was asked for; none takes time."""
    asked = []
    monkeypatch.setattr(offer, "reconnect_delay", lambda failures: asked.append(failures) or 0.0)
    return asked


def resting(app):
    return len(app.sync._opened._connections._resting)


# --- what is written


def test_it_connects_by_itself_and_writes_what_the_other_publisher_writes(app, books):
    receipt = app.sync.publish(QUEUE, WORK, priority="high", correlation_id="case")
    assert receipt == Receipt(receipt.id, QUEUE)

    async def other():
        async with app:
            await app.publish(QUEUE, WORK, priority="high", correlation_id="case")

    asyncio.run(other())
    ours, theirs = books.entries("high")
    assert list(ours) == list(theirs) == ["id", "queue", "priority", "payload", "metadata", "signature"]
    assert {ours[name] == theirs[name] for name in ("queue", "priority", "payload")} == {True}
    assert books.raw("SMEMBERS", "queue:names") == [QUEUE.encode()]
    assert books.ledger() == {"accepted": 2}


def test_a_handler_publishes_itself(app, books):
    """As by its other `publish`: with its options, to its queue."""

    @app.handler([QUEUE, "other"], priority="low")
    async def work(order: int): ...

    receipt = work.publish_sync(order=1)
    assert receipt.queue == QUEUE
    assert books.entries("low")[0]["payload"] == '{"type":"work","order":1}'
    assert work.options(queue="other", message_id="mine").publish_sync(2) == Receipt("mine", "other")
    with pytest.raises(InvalidMessage):
        work.publish_sync(order="x")


def test_many_are_receipted_in_their_order(app, books):
    receipts = app.sync.publish_many(QUEUE, (WORK for _ in range(1001)))
    assert [receipt.id for receipt in receipts] == books.ready()
    assert app.sync.publish_many(QUEUE, []) == []


def test_once_is_once(app, books):
    first = app.sync.publish(QUEUE, WORK, idempotency_key="order 7")
    assert app.sync.publish(QUEUE, WORK, idempotency_key="order 7") == Receipt(first.id, QUEUE, duplicate=True)
    app.sync.publish(QUEUE, WORK, message_id="mine")
    assert app.sync.publish(QUEUE, WORK, message_id="mine").duplicate
    assert books.ready() == [first.id, "mine"]


def test_what_no_worker_could_accept_is_refused(make):
    app = make(max_size=1000)

    @app.handler(QUEUE)
    def work(order: int): ...

    for payload, options in (
        ({"type": "work", "order": "x"}, {}),
        ({"type": "work", "order": 1}, {"prio": "high"}),
        ({"type": "work", "order": 1}, {"delay": -1}),
    ):
        with pytest.raises(InvalidMessage):
            app.sync.publish(QUEUE, payload, **options)
    with pytest.raises(InvalidMessage, match="payload 1"):
        app.sync.publish_many(QUEUE, [{"type": "work", "order": 1}, {"type": "work"}])
    with pytest.raises(InvalidMessage, match="cannot share"):
        app.sync.publish_many(QUEUE, [{"type": "work", "order": 1}], message_id="one")
    with pytest.raises(MessageTooLarge):
        app.sync.publish(QUEUE, {"type": "work", "order": 1, "filler": "x" * 1000})


def test_what_every_worker_would_refuse_is_not_published(make, books):
    app = make(signing="required", signing_keys=KEY.replace("active", "accepted"))
    with pytest.raises(ConfigError, match="STREAMQ_SIGNING_KEYS"):
        app.sync.publish(QUEUE, WORK)
    assert books.ready() == []


def test_what_happened_is_told_on_the_thread_that_publishes(app):
    events = Events()
    app.observe(events)
    app.sync.publish(QUEUE, WORK, message_id="a")
    app.sync.publish(QUEUE, WORK, message_id="a")
    assert events.of(Published) == [Published(QUEUE, 1, 0, 0), Published(QUEUE, 0, 1, 0)]


# --- full


def test_a_full_queue_rejects(make, books):
    app = make(max_length=2)
    with pytest.raises(QueueFull, match="1 of 3 messages") as raised:
        app.sync.publish_many(QUEUE, [WORK] * 3)
    assert [receipt and receipt.id for receipt in raised.value.receipts] == [*books.ready(), None]
    with pytest.raises(QueueFull, match="holds 2 messages"):
        app.sync.publish(QUEUE, WORK)


def test_a_full_queue_may_let_the_oldest_go(make, books):
    app = make(max_length=2, on_full="drop_oldest")
    receipts = [app.sync.publish(QUEUE, WORK) for _ in range(3)]
    assert books.ready() == [receipt.id for receipt in receipts[1:]]


def test_a_full_queue_may_be_waited_for(make, books, monkeypatch):
    """Until there is room, or patience runs out."""
    monkeypatch.setattr(offer, "FULL_PAUSE", 0.001)
    app, refused = make(max_length=1, on_full="block", block_timeout=30.0), threading.Event()
    app.observe(lambda event: event.refused and refused.set())
    app.sync.publish(QUEUE, WORK)
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(app.sync.publish, QUEUE, WORK)
        assert refused.wait(25)
        assert not waiting.done()
        books.raw("XTRIM", books.keys.normal, "MAXLEN", 0)
        receipt = waiting.result(25)
        assert books.ready() == [receipt.id]
    hasty = make(max_length=1, on_full="block", block_timeout=0.01)
    with pytest.raises(QueueFull):
        hasty.sync.publish(QUEUE, WORK)


# --- durable


def test_it_waits_for_what_durable_asks(app):
    with pytest.raises(DurabilityUnconfirmed, match="append-only file") as raised:
        app.sync.publish(QUEUE, WORK, durable="fsync")
    assert app.sync.publish(QUEUE, WORK, message_id=raised.value.id).duplicate
    with PrivateServer(server_binary("valkey-9.1"), args=["--appendonly", "yes", "--appendfsync", "always"]) as disk:
        careful = StreamQ(settings=Settings(config=Config(), redis_url=disk.url))
        with careful.sync as publisher:
            assert not publisher.publish(QUEUE, WORK, durable="fsync").duplicate


# --- outages


@pytest.mark.parametrize("fault", ["cut_replies", "halve_replies"])
def test_a_try_whose_reply_was_lost_is_repeated_by_its_id(make, server, books, pauses, fault):
    """Exactly one entry, and a receipt that does not call it a duplicate."""
    with FaultProxy(server.url) as proxy:
        app = make(url=proxy.url)
        app.sync.publish(QUEUE, WORK, message_id="first")
        getattr(proxy, fault)(2)
        receipt = app.sync.publish(QUEUE, WORK)
        app.sync.close()
    assert not receipt.duplicate
    assert books.ready() == ["first", receipt.id]
    assert pauses == [1, 2]


def test_of_many_each_is_repeated_by_its_own_id(make, server, books, pauses):
    with FaultProxy(server.url) as proxy:
        app = make(url=proxy.url)
        app.sync.publish(QUEUE, WORK, message_id="first")
        proxy.cut_replies()
        receipts = app.sync.publish_many(QUEUE, [WORK] * 3)
        app.sync.close()
    assert books.ready() == ["first", *(receipt.id for receipt in receipts)]
    assert pauses == [1]


def test_a_server_that_is_killed_is_waited_for(monkeypatch):
    with PrivateServer(server_binary("valkey-9.1"), args=["--appendonly", "yes", "--appendfsync", "always"]) as server:
        app, down = StreamQ(settings=Settings(config=Config(), redis_url=server.url)), threading.Event()
        monkeypatch.setattr(offer, "reconnect_delay", lambda _: down.set() or 0.01)
        with app.sync as publisher, ThreadPoolExecutor() as threads:
            publisher.publish(QUEUE, WORK, message_id="first")
            server.kill()
            publishing = threads.submit(publisher.publish, QUEUE, WORK)
            assert down.wait(25)
            server.start()
            assert not publishing.result(25).duplicate
            assert publisher.publish(QUEUE, WORK, message_id="first").duplicate


def test_what_waits_for_nothing_is_noticed_before_it_is_used(app, books, pauses):
    """Redis, or somebody between, has closed a connection that rested: no message meets that first."""
    app.sync.publish(QUEUE, WORK)
    books.raw("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    app.sync.publish(QUEUE, WORK)
    assert pauses == []


def test_it_gives_up_while_the_id_is_surely_remembered(make, server, pauses):
    """The error names the id with which it is safe to go on."""
    app = make(url="redis://127.0.0.1:1", limits={"seen_window": 0.0})
    with pytest.raises(PublishUnknown) as raised:
        app.sync.publish(QUEUE, WORK)
    assert raised.value.id.startswith("msg_")
    assert isinstance(raised.value.__cause__, RedisUnavailable)


def test_what_redis_will_never_do_is_not_repeated(app, books, pauses):
    books.raw("SET", books.keys.normal, "theirs")
    with pytest.raises(RedisRefused):
        app.sync.publish(QUEUE, WORK)
    assert pauses == []
    books.raw("DEL", books.keys.normal)
    app.sync.publish(QUEUE, WORK)


def test_wrong_credentials_are_told_at_once(make, server, pauses):
    app = make(url=server.url.replace("unix://", "unix://:wrong@"))
    with pytest.raises(RedisRefused):
        app.sync.publish(QUEUE, WORK)


# --- threads and processes


def test_threads_share_it_and_no_two_share_a_connection(app, books):
    def publish(name):
        return [app.sync.publish(QUEUE, WORK, message_id=f"{name}-{number}").id for number in range(50)]

    with ThreadPoolExecutor(8) as threads:
        told = [identity for ids in threads.map(publish, range(8)) for identity in ids]
    assert sorted(told) == sorted(books.ready()) == sorted({f"{t}-{n}" for t in range(8) for n in range(50)})
    assert 1 <= resting(app) <= 8


def test_what_is_published_while_it_is_closed_is_published(app, books, monkeypatch):
    """Whoever comes later connects anew, and what was in use is not kept."""
    before = app.sync._publisher()
    connections = app.sync._opened._connections

    class Closing(Events):
        def __call__(self, event):
            app.sync.close()

    app.observe(Closing())
    app.sync.publish(QUEUE, WORK)
    assert connections._closed
    assert app.sync._opened is None
    app.observers.routine = ()
    app.sync.publish(QUEUE, WORK)
    assert app.sync._publisher() is not before
    assert len(books.ready()) == 2


def test_a_loop_that_runs_is_blocked_but_not_disturbed(app, books):
    async def view():
        return app.sync.publish(QUEUE, WORK)

    receipt = asyncio.run(view())
    assert books.ready() == [receipt.id]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python where threads run, as they do in servers
def test_a_child_process_has_connections_of_its_own(app, books):
    """It would read the replies of its parent otherwise."""
    app.sync.publish(QUEUE, WORK, message_id="before")
    app.sync._opening.acquire()  # by a thread that the child does not have
    child = os.fork()
    if child == 0:
        try:
            before = app.sync._opened
            receipt = app.sync.publish(QUEUE, WORK, message_id="child")
            os._exit(0 if before is None and not receipt.duplicate else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    app.sync._opening.release()
    assert resting(app) == 1
    assert not app.sync.publish(QUEUE, WORK, message_id="parent").duplicate
    assert sorted(books.ready()) == ["before", "child", "parent"]


SCRIPT = """
from streamq import StreamQ
app = StreamQ(redis_url="embedded://")
print(app.sync.publish("orders", {"type": "work"}).queue)
"""


def test_a_script_has_a_server_of_its_own_until_it_ends(tmp_path):
    """Found by the rules of every app; the last one out stops it."""
    command = [sys.executable, "-W", "error", "-c", SCRIPT]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "orders\n", "")
    log = tmp_path / ".streamq" / "server.log"
    wait_until(lambda: "bye bye" in log.read_text())
