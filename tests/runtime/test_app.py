"""The public door: connecting, publishing by name, lifespans, workers of an app."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import msgspec
import pytest

from streamq import Context, InvalidMessage, StreamQ
from streamq import app as module
from streamq.core.config import Config, QueueConfig
from streamq.core.errors import ConfigError, RedisUnavailable, StreamqError
from streamq.core.events import Settled
from streamq.session import open_session
from streamq.settings import Settings
from tests.runtime.rig import QUEUE, fields, serving, soon, turns

KEY = "k1:active:" + "QUFB" * 12


# --- connecting


@pytest.fixture
def slow_opening(monkeypatch):
    """Connecting takes its time, as it does where a server has to be started first; so does leaving."""
    log = SimpleNamespace(opened=0, closed=0)

    @asynccontextmanager
    async def slowly(*args):
        log.opened += 1
        await turns()
        async with open_session(*args) as session:
            yield session
            await turns(100)
        log.closed += 1

    monkeypatch.setattr(module, "open_session", slowly)
    return log


def test_making_an_app_reads_and_connects_nothing():
    """It is made at import; what it needs is found when it is used."""
    app = StreamQ(redis_url="redis://nowhere:1", config="no/such/file.yaml")
    assert (app._settings, app._session) == (None, None)


async def test_outside_of_async_with_nothing_is_connected(make_app):
    app = make_app()
    with pytest.raises(StreamqError, match="async with app"):
        await app.publish(QUEUE, {"type": "work"})
    with pytest.raises(StreamqError, match="async with app"):
        _ = app.dead_letters


async def test_a_nested_app_is_connected_once_until_the_last_one_leaves(make_app, books):
    app = make_app()
    async with app:
        session = app.session
        async with app:
            assert app.session is session
        await app.publish(QUEUE, {"type": "work"})
    with pytest.raises(StreamqError):
        _ = app.session
    async with app:
        assert app.session is not session
        await app.publish(QUEUE, {"type": "work"})
    assert len(books.ready()) == 2


async def test_two_who_enter_at_once_share_one_connection(make_app, books, slow_opening):
    """A worker and a publisher, each in a task of its own."""
    app, sessions = make_app(), set()

    async def enter():
        async with app:
            sessions.add(app.session)
            await app.publish(QUEUE, {"type": "work"})
            await asyncio.sleep(0)

    await soon(asyncio.gather(*(enter() for _ in range(5))))
    assert (slow_opening.opened, len(sessions)) == (1, 1)
    assert app._session is None
    assert len(books.ready()) == 5


async def test_who_enters_while_the_last_one_leaves_is_connected(make_app, books, slow_opening):
    app, leaving = make_app(), asyncio.Event()

    async def leave():
        async with app:
            leaving.set()

    async def enter():
        await leaving.wait()
        await asyncio.sleep(0)
        async with app:
            await turns(200)
            assert (slow_opening.opened, slow_opening.closed) == (2, 1)
            await app.publish(QUEUE, {"type": "work"})

    await soon(asyncio.gather(leave(), enter()))
    assert (slow_opening.opened, slow_opening.closed) == (2, 2)
    assert len(books.ready()) == 1


async def test_an_app_that_could_not_connect_may_try_again(make_app, monkeypatch):
    app = make_app()
    good, app._settings = app._settings, Settings(config=Config(), redis_url="nonsense://")
    with pytest.raises(ConfigError):
        async with app:
            pass
    app.configure(good)
    async with app:
        await app.publish(QUEUE, {"type": "work"})


def test_an_app_can_be_used_in_one_loop_after_another(make_app, books, slow_opening):
    """As a script does that calls ``asyncio.run`` twice."""
    app = make_app()

    async def publish():
        async with app:
            await app.publish(QUEUE, {"type": "work"})

    async def together():
        await asyncio.gather(publish(), publish())

    asyncio.run(together())
    asyncio.run(together())
    assert len(books.ready()) == 4


# --- publishing by name


@dataclass
class Letter:
    type: str
    to: str


class Parcel(msgspec.Struct, tag_field="type", tag="parcel"):
    to: str


@pytest.mark.parametrize(
    "payload",
    [{"type": "letter", "to": "Rome"}, Letter("letter", "Rome"), Parcel("Rome")],
    ids=["dict", "dataclass", "Struct"],
)
async def test_any_object_with_a_type_is_a_payload(make_app, books, payload):
    app = make_app()
    async with app:
        receipt = await app.publish(QUEUE, payload, priority="high")
    (entry,) = books.entries("high")
    assert entry["id"] == receipt.id
    assert '"to":"Rome"' in entry["payload"]
    assert '"type":"' in entry["payload"]


@pytest.mark.parametrize("payload", [{"to": "Rome"}, {"type": 5}, ["type"], "type", None, {"type": Ellipsis}], ids=str)
async def test_what_has_no_type_is_refused(make_app, payload):
    app = make_app()
    async with app:
        with pytest.raises(InvalidMessage):
            await app.publish(QUEUE, payload)
        with pytest.raises(InvalidMessage):
            await app.publish_many(QUEUE, [payload])


async def test_an_unknown_option_is_named(make_app):
    app = make_app()
    async with app:
        with pytest.raises(InvalidMessage, match="no such option: prio"):
            await app.publish(QUEUE, {"type": "work"}, prio="high")
        with pytest.raises(InvalidMessage, match="no such option: prio"):
            await app.publish_many(QUEUE, [{"type": "work"}], prio="high")


async def test_many_go_in_their_order(make_app, books):
    app = make_app()
    async with app:
        receipts = await app.publish_many(QUEUE, ({"type": "work", "n": n} for n in range(3)), correlation_id="case")
    assert [receipt.id for receipt in receipts] == books.ready()
    assert all('"correlation_id":"case"' in entry["metadata"] for entry in books.entries())


# --- lifespans


def as_generator(log):
    async def lifespan():
        log.append("begins")
        yield "state"
        log.append("ends")

    return lifespan


def as_manager(log):
    return asynccontextmanager(as_generator(log))


def as_factory(log):
    def lifespan():
        return as_manager(log)()

    return lifespan


def as_class(log):
    class Lifespan:
        async def __aenter__(self):
            log.append("begins")
            return "state"

        async def __aexit__(self, *_):
            log.append("ends")

    return Lifespan


@pytest.mark.parametrize("form", [as_generator, as_manager, as_factory, as_class])
async def test_a_lifespan_may_have_any_form(make_app, form):
    app, log = make_app(), []
    function = form(log)
    assert app.lifespan(function) is function

    @app.handler(QUEUE)
    async def work(ctx: Context):
        log.append(ctx.state)

    async with app:
        await work.publish()
        await soon(app.worker(burst=True).run())
    assert log == ["begins", "state", "ends"]


async def test_publishing_alone_needs_no_lifespan(make_app):
    app, log = make_app(), []
    app.lifespan(as_generator(log))
    async with app:
        await app.publish(QUEUE, {"type": "work"})
    assert log == []


# --- workers


async def test_a_worker_without_a_queue_has_nothing_to_serve(make_app):
    with pytest.raises(ConfigError, match="no queue to serve"):
        await soon(make_app().worker().run())


async def test_a_worker_serves_every_queue_that_has_a_handler_unless_it_is_told(make_app, books):
    app, ran = make_app(), []

    @app.handler(["orders", "mail"])
    async def work(name: str):
        ran.append(name)

    async with app:
        for queue in ("orders", "mail"):
            await work.options(queue=queue).publish(queue)
        await soon(app.worker("mail", burst=True).run())
        assert ran == ["mail"]
        await soon(app.worker(burst=True).run())
        assert ran == ["mail", "orders"]


async def test_a_queue_that_is_named_twice_is_served_once(make_app):
    app = make_app()
    async with serving(app, QUEUE, QUEUE) as worker:
        assert [lane.queue for lane in worker.worker.lanes] == [QUEUE]


async def test_concurrency_beats_the_configuration(make_app):
    app = make_app(max_consumers=2)
    async with serving(app, QUEUE, concurrency=7) as worker:
        assert worker.worker.lanes[0].in_flight.slots == 7
    async with serving(app, QUEUE) as worker:
        assert worker.worker.lanes[0].in_flight.slots == 2


async def test_a_worker_that_never_ran_holds_nothing(make_app):
    worker = make_app().worker(QUEUE)
    assert (worker.running(), worker.has_busy_threads()) == (0, False)
    worker.stop()


async def test_two_workers_of_one_app_share_the_work(make_app, books):
    app, ran = make_app(), []
    both = asyncio.Barrier(2)

    @app.handler(QUEUE)
    async def work(name: str):
        ran.append(name)
        await both.wait()

    async with serving(app, concurrency=1) as one, serving(app, concurrency=1) as two, app:
        await work.publish("a")
        await work.publish("b")
        await one.events.until(Settled, 2)
    assert sorted(ran) == ["a", "b"]
    assert (one.cut_short, two.cut_short) == (0, 0)


async def test_what_a_handler_publishes_belongs_to_the_same_case(make_app, books):
    app = make_app()

    @app.handler(QUEUE)
    async def first(ctx: Context):
        await ctx.publish("mail", {"type": "second"})

    async with app:
        await first.options(correlation_id="case").publish()
        receipt = await first.publish()
        await soon(app.worker(QUEUE, burst=True).run())
    one, two = books.of("mail").entries()
    assert '"correlation_id":"case"' in one["metadata"]
    assert f'"correlation_id":"{receipt.id}"' in two["metadata"]


async def test_redis_that_cannot_be_reached_is_told_to_a_publisher(make_app, tmp_path):
    """Not at once: it may be restarting. Here the window is short."""
    app = make_app(url=f"unix://{tmp_path}/none.sock", limits={"seen_window": 0.1})
    async with app:
        with pytest.raises(StreamqError) as raised:
            await soon(app.publish(QUEUE, {"type": "work"}))
    assert "none.sock" in str(raised.value)
    assert not isinstance(raised.value, RedisUnavailable)


# --- signing


async def test_signed_from_publisher_to_handler(make_app, books):
    """And once there is a key, what is not signed does not run."""
    app, ran = make_app(signing_keys=KEY), []

    @app.handler(QUEUE)
    async def work(ctx: Context):
        ran.append(ctx.message.key_id)

    books.raw("XADD", books.keys.normal, "*", *fields("theirs"))
    async with app:
        await work.publish()
        await soon(app.worker(burst=True).run())
    assert ran == ["k1"]
    assert [(letter["original_id"], letter["reason"]) for letter in books.letters()] == [("theirs", "unsigned")]


@pytest.mark.parametrize(
    ("production", "signing", "keys", "refused"),
    [
        (False, None, None, False),
        (False, "required", None, True),
        (True, None, None, True),
        (True, "optional", None, False),
        (True, None, KEY, False),
    ],
)
async def test_work_without_signatures_is_not_for_production(server, production, signing, keys, refused):
    """Unless the queue itself says so; everywhere else it is a warning."""
    config = Config(queues={QUEUE: QueueConfig(name=QUEUE, signing=signing)})
    app = StreamQ(
        settings=Settings(config=config, redis_url=server.url, signing_keys=keys, production=production)
    )  # fmt: skip
    async with app:
        if refused:
            with pytest.raises(ConfigError, match="STREAMQ_SIGNING_KEYS"):
                app.session.queue_configs([QUEUE])
        else:
            (resolved,) = app.session.queue_configs([QUEUE])
            assert resolved.signing == ("required" if keys else "optional")
