"""A worker as a whole: how it starts, how it ends, and what becomes of what it holds."""

import asyncio
import threading

import pytest
import redis

from streamq import Context
from streamq.core.errors import ConfigError, RedisUnavailable
from streamq.core.events import LeaseLost, Reclaimed, Settled
from streamq.core.events import RedisUnavailable as Outage
from streamq.runtime import drain, janitor, reclaimer, settler, supervisor
from streamq.runtime import worker as module
from streamq.runtime.lease_keeper import LeaseKeeper
from streamq.runtime.lifecycle import State
from streamq.runtime.promoter import Promoter
from streamq.store.beats import BeatConnection
from streamq.store.reader import QueueReader
from streamq.store.streams import QueueStore
from streamq.testing.server import PrivateServer
from tests.runtime.rig import GROUP, OTHER, QUEUE, Books, Events, fields, serving, soon, turns, until
from tests.support import server_binary


@pytest.fixture(autouse=True)
def _hurry(monkeypatch):
    """What would take seconds takes a moment."""
    monkeypatch.setattr(drain, "CANCEL_PATIENCE", 0.3)
    monkeypatch.setattr(supervisor, "reconnect_delay", lambda failures: 0.02)


class Held:
    """A handler that holds its messages until it is told to let them go."""

    def __init__(self, app, queue=QUEUE, *, stubborn=False, **options):
        self.began, self.go = asyncio.Event(), asyncio.Event()
        self.ran, self.cancels = [], 0

        @app.handler(queue, type="hold", **options)
        async def hold(name: str = ""):
            self.ran.append(name)
            self.began.set()
            while not self.go.is_set():
                try:
                    await self.go.wait()
                except asyncio.CancelledError:
                    self.cancels += 1
                    if not stubborn or self.cancels > 2:
                        raise


def put(books, *names, kind="hold", level="normal"):
    """Messages of somebody who knows nothing of streamq."""
    for name in names:
        entry = fields(name, level=level, payload=f'{{"type":"{kind}","name":"{name}"}}')
        books.raw("XADD", books.keys.stream(level), "*", *entry)


def hand_over(books, name, consumer):
    """A message that goes straight into the hands of a consumer: in one step, or a waiting reader would be faster."""
    entry = fields(name, level="low", payload=f'{{"type":"hold","name":"{name}"}}')
    text = """redis.call('XADD', KEYS[1], '*', unpack(ARGV, 3))
        redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'STREAMS', KEYS[1], '>')"""
    books.raw("EVAL", text, 1, books.keys.low, GROUP, consumer, *entry)


# --- the start


async def test_it_serves_until_it_is_stopped_and_leaves_nothing_behind(make_app, books):
    app = make_app()
    ran = asyncio.Event()

    @app.handler(QUEUE)
    async def work(name: str):
        ran.set()

    async with app, serving(app) as worker:
        await work.publish("one")
        await soon(ran.wait())
        await worker.events.until(Settled)
        assert worker.worker.lifecycle.state is State.RUNNING
    assert worker.cut_short == 0
    assert worker.worker.lifecycle.state is State.STOPPED
    assert books.is_empty()
    assert (books.consumers(), books.beats()) == (set(), set())


async def test_everything_is_in_place_before_it_reads(make_app, books, monkeypatch):
    """Groups and names, then the lifespan, then a beat, then the first read."""
    app, order = make_app(), []

    def spy(kind, name):
        original = getattr(kind, name)

        async def told(self, *args, **options):
            if name not in order:
                order.append(name)
            return await original(self, *args, **options)

        monkeypatch.setattr(kind, name, told)

    for name in ("register", "ensure"):
        spy(QueueStore, name)
    spy(QueueReader, "fetch")
    extend = BeatConnection.extend

    def beat(self, *args, **options):
        answer = extend(self, *args, **options)
        if "beat" not in order:
            threading.Event().wait(0.05)  # who did not wait for it would read before
            order.append("beat")
        return answer

    monkeypatch.setattr(BeatConnection, "extend", beat)

    @app.lifespan
    async def lifespan():
        order.append("lifespan")
        yield
        order.append("end of lifespan")

    Held(app)
    async with serving(app):
        pass
    assert order == ["register", "ensure", "lifespan", "beat", "fetch", "end of lifespan"]
    assert books.raw("SMEMBERS", books.keyspace.names) == [QUEUE.encode()]


async def test_queues_come_in_the_order_of_their_priority(make_app):
    app = make_app()
    for queue in ("low-q", "normal-q", "critical-q"):
        Held(app, queue)
    resolved = {q: app.settings.config.queue(q) for q in app.registry.queues()}
    for queue, config in resolved.items():
        app.settings.config.queues[queue] = type(config)(name=queue, priority=queue.removesuffix("-q"))
    async with serving(app) as worker:
        assert [lane.queue for lane in worker.worker.lanes] == ["critical-q", "normal-q", "low-q"]


async def test_its_name_is_its_own(make_app):
    """Whoever reads under the same name runs the same messages."""
    app = make_app()
    Held(app)
    async with serving(app, name="blue") as one, serving(app, name="blue") as two:
        assert one.worker.consumer != two.worker.consumer
        assert one.worker.consumer.startswith("blue:")


async def test_a_queue_of_another_group_is_refused(make_app, books):
    """Two groups would each get every message."""
    books.raw("XGROUP", "CREATE", books.keys.normal, "theirs", "0", "MKSTREAM")
    app = make_app()
    Held(app)
    with pytest.raises(ConfigError, match="theirs"):
        await soon(app.worker().run())
    assert books.beats() == set()


async def test_a_key_of_another_kind_is_refused(make_app, books):
    books.raw("SET", books.keys.normal, "theirs")
    app = make_app()
    Held(app)
    with pytest.raises(ConfigError, match="holds a string"):
        await soon(app.worker().run())


async def test_redis_must_be_there_within_the_first_seconds(make_app, tmp_path, monkeypatch):
    """Later it is waited for; at the start it is a wrong address."""
    monkeypatch.setattr(module, "START_PATIENCE", 0.1)
    app = make_app(url=f"unix://:secret@{tmp_path}/none.sock")
    Held(app)
    with pytest.raises(RedisUnavailable, match="was not reachable") as raised:
        await soon(app.worker().run())
    assert "secret" not in str(raised.value)


async def test_redis_may_come_up_while_it_starts(make_app, monkeypatch):
    tries = []
    ensure = QueueStore.ensure

    async def late(self):
        tries.append(self)
        if len(tries) < 3:
            raise RedisUnavailable("not yet")
        await ensure(self)

    monkeypatch.setattr(QueueStore, "ensure", late)
    app = make_app()
    Held(app)
    async with serving(app):
        assert len(tries) >= 3


async def test_who_is_stopped_while_redis_is_awaited_ends(make_app, tmp_path):
    app = make_app(url=f"unix://{tmp_path}/none.sock")
    Held(app)
    worker = app.worker()
    task = asyncio.ensure_future(worker.run())
    await until(lambda: worker.worker is not None)
    await turns()
    worker.stop()
    assert await soon(task) == 0


async def test_who_is_stopped_while_the_first_beat_is_awaited_ends(make_app, monkeypatch):
    """Redis went away between the first commands and the first beat."""

    def down(self, *args, **options):
        raise RedisUnavailable("down")

    monkeypatch.setattr(BeatConnection, "extend", down)
    app = make_app()
    held = Held(app)
    events = Events()
    app.observe(events)
    worker = app.worker()
    task = asyncio.ensure_future(worker.run())
    await events.until(Outage, role="beat")
    worker.stop()
    assert await soon(task) == 0
    assert held.ran == []


async def test_who_was_stopped_before_it_ran_does_not_begin(make_app, books):
    app = make_app()
    held = Held(app)
    put(books, "a")
    worker = app.worker()
    worker.stop()
    assert await soon(worker.run()) == 0
    assert held.ran == []
    assert books.ready() == ["a"]


# --- the lifespan


async def test_the_lifespan_is_the_handlers_state_and_outlives_them(make_app):
    app, seen = make_app(), []
    open_now = False

    @app.lifespan
    async def lifespan():
        nonlocal open_now
        open_now = True
        yield {"db": "connection"}
        open_now = False

    @app.handler(QUEUE)
    async def work(ctx: Context):
        seen.append((ctx.state, open_now))

    async with app, serving(app) as worker:
        await work.publish()
        await worker.events.until(Settled)
    assert seen == [({"db": "connection"}, True)]
    assert not open_now


async def test_a_lifespan_that_fails_is_the_end_of_the_start(make_app, books):
    app = make_app()
    held = Held(app)
    put(books, "a")

    @app.lifespan
    async def lifespan():
        raise OSError("no database")
        yield

    with pytest.raises(OSError, match="no database"):
        await soon(app.worker().run())
    assert (held.ran, books.ready()) == ([], ["a"])


# --- the end


async def test_what_runs_may_finish(make_app, books):
    """The lease is kept meanwhile, and nothing new is taken."""
    app = make_app(lease=0.2, max_consumers=1)
    held = Held(app)
    put(books, "a")
    async with serving(app) as worker:
        await soon(held.began.wait())
        worker.stop()
        put(books, "b")
        beat = books.raw("HGET", books.keys.workers, worker.worker.consumer)
        await until(lambda: books.raw("HGET", books.keys.workers, worker.worker.consumer) != beat)
        assert not worker.task.done()
        assert worker.running() == 1
        held.go.set()
    assert (worker.cut_short, held.ran) == (0, ["a"])
    assert books.ready() == ["b"]
    assert books.beats() == set()


async def test_what_has_not_begun_goes_back_at_once(make_app, books):
    """It need not wait for the drain: others can run it."""
    app = make_app()
    held = Held(app)
    put(books, "a")
    async with serving(app, drain_timeout=3600) as worker:
        await soon(held.began.wait())
        async with worker.worker._isolation.alone(0.0):
            put(books, "b")
            await until(lambda: worker.running() == 2)
            worker.stop()
            await worker.events.until(Settled)
            assert books.ready() == ["b"]
        held.go.set()
    assert held.ran == ["a"]


async def test_what_comes_with_the_last_read_is_back_in_its_stream_before_it_leaves(make_app, books, monkeypatch):
    """It never had a slot, so no slot says that it is still on its way."""
    app = make_app()
    held = Held(app)
    fetch = QueueReader.fetch

    async def fetch_last(self, level, count):
        found = await fetch(self, level, count)
        if found:
            worker.stop()
        return found

    monkeypatch.setattr(QueueReader, "fetch", fetch_last)
    release = QueueStore.release

    async def release_slowly(*args):
        await turns(100)
        return await release(*args)

    monkeypatch.setattr(QueueStore, "release", release_slowly)
    put(books, "a")
    async with app:
        worker = app.worker()
        assert await soon(worker.run()) == 0
    assert held.ran == []
    assert (books.ready(), books.pending()) == (["a"], {})
    assert books.consumers() == set()


async def test_what_does_not_finish_in_time_is_handed_back_without_an_attempt(make_app, books):
    app = make_app()
    held = Held(app)
    put(books, "a")
    async with serving(app, drain_timeout=0.02) as worker:
        await soon(held.began.wait())
    assert (worker.cut_short, held.cancels) == (1, 1)
    assert books.ready() == ["a"]
    assert books.entries()[0].get("retry_count", "0") == "0"
    assert (books.consumers(), books.beats()) == (set(), set())


async def test_a_worker_that_waits_for_messages_is_woken_to_end(make_app, books):
    """Not when its read has waited for long enough."""
    app = make_app(limits={"block": 3600.0})
    Held(app)
    async with serving(app):
        await until(lambda: b"blocked_clients:0" not in books.raw("INFO", "clients"))


async def test_a_read_that_only_just_begins_is_woken_too(make_app, books, monkeypatch):
    """The first attempt to wake it came too early."""
    wake, calls = QueueReader.wake, []

    async def wake_late(self):
        calls.append(True)
        if len(calls) > 1:
            await wake(self)

    monkeypatch.setattr(QueueReader, "wake", wake_late)
    app = make_app(limits={"block": 3600.0})
    Held(app)
    async with serving(app):
        await until(lambda: b"blocked_clients:0" not in books.raw("INFO", "clients"))
    assert len(calls) >= 2


async def test_the_time_to_drain_is_the_configured_one(make_app, books):
    app = make_app(limits={"drain_timeout": 0.02})
    held = Held(app)
    put(books, "a")
    async with serving(app) as worker:
        await soon(held.began.wait())
    assert worker.cut_short == 1


async def test_the_second_stop_does_not_wait(make_app, books):
    app = make_app()
    held = Held(app)
    put(books, "a")
    async with serving(app, drain_timeout=3600) as worker:
        await soon(held.began.wait())
        worker.stop()
        await turns()
        assert held.cancels == 0
        worker.stop()
        assert await soon(worker.task) == 1
    assert books.ready() == ["a"]


async def test_what_will_not_end_is_handed_back_all_the_same(make_app, books):
    """As with a thread: nothing can stop it, and another worker runs its message."""
    app = make_app()
    held = Held(app, stubborn=True)
    put(books, "a")
    async with serving(app, drain_timeout=0.02) as worker:
        await soon(held.began.wait())
    assert worker.cut_short == 1
    assert books.ready() == ["a"]
    held.go.set()


async def test_a_thread_that_cannot_be_stopped_does_not_keep_the_worker(make_app, books):
    app, go, began = make_app(), threading.Event(), threading.Event()

    @app.handler(QUEUE, type="hold")
    def hold(name: str):
        began.set()
        go.wait(10)

    put(books, "a")
    async with serving(app, drain_timeout=0.02) as worker:
        assert await asyncio.to_thread(began.wait, 10)
    assert worker.cut_short == 1
    assert worker.has_busy_threads()
    assert books.ready() == ["a"]
    go.set()
    await until(lambda: not worker.has_busy_threads())


async def test_it_keeps_its_name_while_something_is_pending_under_it(make_app, books):
    """Removing the name would destroy what is pending."""
    app = make_app()
    Held(app)
    async with serving(app) as worker:
        consumer = worker.worker.consumer
        hand_over(books, "a", consumer)
    assert books.consumers() == books.beats() == {consumer}
    assert books.pending("low") == {"a": (consumer, 1)}


async def test_a_redis_that_hangs_does_not_keep_it(make_app, monkeypatch):
    """Its name is left to the janitors."""

    async def hang(*_, **__):
        await asyncio.Event().wait()

    monkeypatch.setattr(module, "LEAVE_PATIENCE", 0.05)
    app = make_app()
    Held(app)
    Held(app, "mail")
    async with serving(app):
        monkeypatch.setattr(QueueStore, "forget", hang)


async def test_a_cancelled_worker_takes_its_handlers_along(make_app, books):
    """No handler runs on without beats. What it held is left for others."""
    app = make_app()
    held = Held(app)
    put(books, "a")
    worker = app.worker()
    task = asyncio.ensure_future(worker.run())
    await soon(held.began.wait())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    assert held.cancels == 1
    assert books.pending() == {"a": (worker.worker.consumer, 1)}
    assert asyncio.all_tasks() == {asyncio.current_task()}


# --- bugs


async def broken(*_, **__):
    raise ZeroDivisionError("bug")


@pytest.mark.parametrize(
    ("kind", "name"),
    [(Promoter, "promote"), (reclaimer.Reclaimer, "sweep"), (QueueReader, "wait"), (settler._Sender, "send")],
    ids=["promote", "reclaim", "fetch", "settle"],
)
async def test_a_bug_in_a_role_takes_the_worker_down_loudly(make_app, books, monkeypatch, kind, name):
    """What runs is cut short and handed back where that can still be done."""
    app, ended = make_app(lease=1.0), []

    @app.lifespan
    async def lifespan():
        yield
        ended.append(True)

    held = Held(app)
    put(books, "a")
    monkeypatch.setattr(kind, name, broken)
    monkeypatch.setattr(drain, "CANCEL_PATIENCE", 0.05)
    worker = app.worker(drain_timeout=3600)
    if name in ("sweep", "send"):
        held.go.set()
    with pytest.raises(ZeroDivisionError, match="bug"):
        await soon(worker.run())
    assert ended == [True]
    assert worker.worker.lifecycle.state is State.STOPPED
    if name == "promote":
        assert books.ready() == ["a"]


async def test_a_bug_in_the_beat_takes_the_worker_down_too(make_app, monkeypatch):
    """Without beats its leases end while it runs on."""
    app = make_app()
    Held(app)
    worker = app.worker()
    task = asyncio.ensure_future(worker.run())
    await until(lambda: worker.worker is not None and worker.worker.health.ready().ok)
    monkeypatch.setattr(BeatConnection, "extend", lambda *_, **__: 1 / 0)
    (keeper,) = worker.worker._keepers
    keeper._next = dict.fromkeys(keeper._next, 0.0)
    keeper._poke.set()
    with pytest.raises(ZeroDivisionError):
        await soon(task)


async def test_a_keyboard_interrupt_in_a_handler_ends_the_worker(make_app, books):
    app = make_app()

    @app.handler(QUEUE, type="hold")
    async def hold(name: str):
        raise KeyboardInterrupt

    put(books, "a")
    with pytest.raises(KeyboardInterrupt):
        await app.worker().run()  # not in a task of its own: that would hand it to the loop


# --- with others


async def test_it_takes_over_from_a_worker_that_fell_silent(make_app, books):
    """As soon as a beat says so, not when the lease is over."""
    app = make_app(lease=3600.0, limits={"beat_interval": 0.05})
    held = Held(app)
    held.go.set()
    async with serving(app) as worker:
        hand_over(books, "orphan", OTHER)
        books.raw("HSET", books.keys.workers, OTHER, books.now_ms() - 60_000)
        await worker.events.until(Reclaimed)
        await worker.events.until(Settled)
    assert held.ran == ["orphan"]
    assert books.is_empty()


async def test_a_lost_lease_cancels_its_handler(make_app, books):
    app = make_app(limits={"beat_interval": 0.05})
    held = Held(app)
    put(books, "a")
    async with serving(app) as worker:
        await soon(held.began.wait())
        ((entry, _, _, _),) = books.raw("XPENDING", books.keys.normal, GROUP, "-", "+", 1)
        books.raw("XCLAIM", books.keys.normal, GROUP, OTHER, 0, entry)
        await worker.events.until(LeaseLost)
        await turns()
        assert held.cancels == 1
        assert books.pending() == {"a": (OTHER, 2)}


async def test_a_group_that_goes_missing_is_made_again(make_app, books):
    app = make_app()
    held = Held(app)
    held.go.set()
    async with serving(app) as worker:
        books.raw("FLUSHALL")
        await worker.events.until(Outage, back=True)
        put(books, "a")
        await worker.events.until(Settled)
        assert books.raw("SMEMBERS", books.keyspace.names) == [QUEUE.encode()]
    assert held.ran == ["a"]


async def test_it_survives_a_restart_of_the_server(make_app):
    """It waits, says so once, and goes on where it was."""
    with PrivateServer(server_binary("valkey-9.1"), args=["--appendonly", "yes"]) as server:
        app = make_app(url=server.url, lease=2.0)
        held = Held(app)
        async with serving(app) as worker:
            with redis.Redis.from_url(server.url, protocol=2) as client:
                client.response_callbacks.clear()
                put(Books(client.execute_command), "a")
            await soon(held.began.wait())
            await asyncio.to_thread(server.stop)
            await worker.events.until(Outage, role="fetch")
            held.go.set()
            await worker.events.until(Outage, role="settle")
            await worker.events.until(Outage, role="beat")
            await asyncio.to_thread(server.start)
            await worker.events.until(Settled)
            with redis.Redis.from_url(server.url, protocol=2) as client:
                client.response_callbacks.clear()
                books = Books(client.execute_command)
                assert books.is_empty()
                put(books, "b")
                await worker.events.until(Settled, 2)
                assert books.ledger()["done"] == 2
            assert len(worker.events.of(Outage, role="fetch", back=False)) == 1
            assert len(worker.events.of(Outage, role="beat", back=False)) == 1
    assert held.ran == ["a", "b"]


async def test_beats_that_fail_are_told_once(make_app, monkeypatch):
    app = make_app(limits={"beat_interval": 0.01})
    Held(app)
    async with serving(app) as worker:
        extend, failed = BeatConnection.extend, []

        def down(self, *args, **options):
            failed.append(True)
            raise RedisUnavailable("down")

        monkeypatch.setattr(BeatConnection, "extend", down)
        await until(lambda: len(failed) >= 4)
        monkeypatch.setattr(BeatConnection, "extend", extend)
        await worker.events.until(Outage, role="beat", back=True)
        assert [event.back for event in worker.events.of(Outage, role="beat")] == [False, True]


async def test_a_name_that_only_beat_is_forgotten_in_the_end(make_app, books, monkeypatch):
    """The beats call it silent, and the janitor hears of that."""
    monkeypatch.setattr(janitor, "EVERY", 0.05)
    app = make_app(limits={"beat_interval": 0.02})
    Held(app)
    async with serving(app) as worker:
        books.raw("HSET", books.keys.workers, OTHER, books.now_ms() - 61_000)
        await until(lambda: books.beats() == {worker.worker.consumer})


async def test_an_embedded_server_that_was_killed_is_brought_back_first(make_app, books, monkeypatch):
    """Before the groups are made again there must be something to make them on."""
    app, order = make_app(), []
    Held(app)
    async with serving(app) as worker:
        ensure = QueueStore.ensure

        async def told(self):
            order.append("ensure")
            await ensure(self)

        async def revive():
            order.append("revive")

        monkeypatch.setattr(QueueStore, "ensure", told)
        worker.worker._plan.revive = revive
        books.raw("DEL", *books.keys.streams)
        await worker.events.until(Outage, back=True)
    assert order[:2] == ["revive", "ensure"]


# --- burst


async def test_a_burst_ends_by_itself(make_app, books):
    app = make_app()
    held = Held(app)
    held.go.set()
    put(books, *(f"m{number}" for number in range(20)))
    async with app:
        await app.publish(QUEUE, {"type": "hold"}, delay=3600)
        assert await soon(app.worker(burst=True).run()) == 0
    assert len(held.ran) == 20
    assert len(books.delayed()) == 1
    assert books.consumers() == set()


async def test_a_burst_ends_when_every_queue_is_done_at_once(make_app, books):
    """A handler of one publishes to the other, which was done already."""
    app, ran = make_app(), []

    @app.handler("first")
    async def finish(name: str):
        ran.append(f"finished {name}")

    @app.handler("second", type="hold")
    async def begin(name: str):
        await turns(200)
        await finish.publish(name)

    async with app:
        for name in ("a", "b"):
            await app.publish("second", {"type": "hold", "name": name})
        assert await soon(app.worker("first", "second", burst=True).run()) == 0
    assert sorted(ran) == ["finished a", "finished b"]
    assert books.of("first").is_empty()


async def test_a_burst_can_be_stopped(make_app, books):
    app = make_app(max_consumers=1)
    held = Held(app)
    put(books, "a", "b")
    async with serving(app, burst=True) as worker:
        await soon(held.began.wait())
        worker.stop()
        held.go.set()
    assert held.ran == ["a"]
    assert books.ready() == ["b"]


async def test_the_keeper_is_the_last_to_end(make_app, books, monkeypatch):
    """Beats go on until the last handler has ended."""
    app, order = make_app(), []
    stop = LeaseKeeper.stop

    async def stop_and_tell(self):
        order.append("beats end")
        await stop(self)

    monkeypatch.setattr(LeaseKeeper, "stop", stop_and_tell)

    @app.handler(QUEUE, type="hold")
    async def hold(name: str):
        began.set()
        await asyncio.to_thread(go.wait, 10)
        order.append("handler ends")

    began, go = asyncio.Event(), threading.Event()
    put(books, "a")
    async with serving(app) as worker:
        await soon(began.wait())
        worker.stop()
        await turns()
        go.set()
    assert order == ["handler ends", "beats end"]
