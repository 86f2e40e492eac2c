"""Faults inside the process: what is cancelled, what is stopped, and what asyncio would keep quiet about."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from streamq import Context
from streamq.core.events import RedisUnavailable, Started
from tests.e2e.rig import QUICK, ROOT, Publishing
from tests.faults.house import QUEUE, eventually, serving, turns, until
from tests.faults.network import done, network
from tests.support import SERVERS, wait_until

pytestmark = pytest.mark.faults


async def test_c04_a_cancelled_command_does_not_hand_its_reply_to_the_next(house):
    """Commands are cancelled at any moment, 340 times on each server; each following one gets its own answer."""
    cancelled = Counter()

    async def ask(execute, asker):
        for number in range(34):
            mine = asyncio.ensure_future(execute("ECHO", f"cancelled-{asker}-{number}"))
            await asyncio.wait([mine], timeout=random.uniform(0, 0.02))
            cancelled[asker] += mine.cancel()
            assert await execute("ECHO", f"next-{asker}-{number}") == f"next-{asker}-{number}".encode()
            await asyncio.wait([mine])

    with network(house) as proxy:
        async with house.app(url=proxy.url) as app:
            proxy.delay = 0.01
            await asyncio.gather(*(ask(app.session.connections.execute, asker) for asker in range(10)))
    assert cancelled.total() > 100


async def test_c05_a_worker_that_is_stopped_again_and_again_strands_nothing(house):
    """The reader is never cancelled: 34 workers on each server are stopped while messages pour in, and none of these
    is left in the hands of who is gone."""
    ran, enough = Counter(), False

    async def pour(publisher):
        while not enough:
            await publisher.publish(QUEUE, {"type": "work"})

    async with house.app(lease=30.0) as publisher:
        pouring = asyncio.ensure_future(pour(publisher))
        for _ in range(34):
            app = house.app(lease=30.0, limits={"block": 2.0})

            @app.handler(QUEUE)
            async def work(ctx: Context):
                ran[ctx.message.id] += 1

            async with serving(app) as worker:
                await worker.events.until(Started, random.randint(1, 20))
            assert (worker.cut_short, house.books.pending(), house.books.consumers()) == (0, {}, set())
        enough = True
        await pouring
        async with serving(app):
            await eventually(house.books.is_empty)
    ledger = house.books.ledger()
    assert set(ran.values()) == {1}
    assert (ledger["accepted"], ledger["done"]) == (len(ran), len(ran))


async def test_c10_an_outcome_that_redis_does_not_take_is_held(own_house):
    """While the server is away after a success, the outcome is kept, its slot stays taken, and nothing runs twice."""
    app, ran, go = own_house.app(), [], asyncio.Event()

    @app.handler(QUEUE)
    async def work(name: str):
        ran.append(name)
        await go.wait()

    async with serving(app, concurrency=1) as worker:
        for name in ("first", "second"):
            await app.publish(QUEUE, {"type": "work", "name": name})
        await until(lambda: ran)
        await asyncio.to_thread(own_house.server.kill)
        go.set()
        await worker.events.until(RedisUnavailable, role="settle")
        away_since = time.monotonic()
        await eventually(lambda: time.monotonic() > away_since + 1.5)
        assert (ran, worker.running()) == (["first"], 1)
        await asyncio.to_thread(own_house.server.start)
        await done(own_house, 2)
    assert ran == ["first", "second"]


@pytest.mark.parametrize("patience", [5.0, 0.0], ids=["drained", "cut short"])
async def test_c11_a_stop_at_any_moment_loses_nothing(house, patience):
    """14 stops on each server and way: what was not cut short runs once, what was cut short once more, without an
    attempt."""
    keys, starts, attempts, cut = 120, Counter(), set(), Counter()
    async with house.app(lease=30.0) as publisher:
        await publisher.publish_many(QUEUE, [{"type": "work", "key": key} for key in range(keys)])
    for _ in range(14):
        app = house.app(lease=30.0)

        @app.handler(QUEUE)
        async def work(key: int, ctx: Context):
            starts[key] += 1
            attempts.add(ctx.attempt)
            try:
                await turns(100)
            except asyncio.CancelledError:
                cut[key] += 1
                raise

        async with serving(app, drain_timeout=patience) as worker:
            before = starts.total()
            await until(lambda before=before: starts.total() > before + random.randrange(8) or house.books.is_empty())
        assert (house.books.pending(), house.books.consumers()) == ({}, set())
        assert worker.cut_short == 0 or patience == 0
    async with serving(app):
        await eventually(house.books.is_empty)
    assert set(starts) == set(range(keys))
    assert starts - cut == Counter(range(keys))
    assert attempts == {1}
    assert not cut or patience == 0
    assert (house.books.ledger()["done"], house.books.letters()) == (keys, [])


@pytest.mark.slow
@pytest.mark.e2e
def test_c11_sigterm_at_any_moment_loses_nothing(rig):
    """Three real processes in turn get it at random moments, the first one while it starts."""
    rig.configure({"lease": "5s", "max_length": 0})
    keys = [f"m{number}" for number in range(400)]
    publishing = Publishing(rig, "slow", keys, at_once=2, payload={"seconds": 0.02})
    worker, codes = rig.start("--concurrency", "8"), []
    for _ in range(3):
        following = rig.worker("--concurrency", "8")
        finished = len(rig.keys_of("F"))
        moment = finished + random.randrange(60)
        wait_until(lambda moment=moment: len(rig.keys_of("F")) >= min(moment, len(keys)))
        codes.append(worker.stop())
        worker = following
    publishing.join(30)
    rig.finished(*keys, seconds=30)
    rig.empty()
    assert publishing.errors == []
    assert codes in ([0, 0, 0], [-signal.SIGTERM, 0, 0])  # the first one may not have come so far as to hear it
    assert sorted(rig.keys_of("S")) == sorted(rig.keys_of("F")) == sorted(keys)


LIFE = """
import asyncio, gc, os
from streamq import StreamQ
from streamq.settings import load_settings

async def main():
    asyncio.get_running_loop().slow_callback_duration = 60  # a busy machine is no leak
    app = StreamQ(settings=load_settings(redis_url=os.environ["URL"], environ={"LOG_LEVEL": "error"}))

    @app.handler("orders", max_retries=0)
    async def work(number: int):
        await asyncio.sleep(0.01)
        if number % 10 == 0:
            raise ValueError(number)

    async with app:
        for burst in (True, False):
            serving = app.worker(burst=burst, drain_timeout=0)
            running = asyncio.ensure_future(serving.run())
            publishing = [app.publish("orders", {"type": "work", "number": n}) for n in range(50)]
            await asyncio.gather(*publishing)
            impatient = asyncio.ensure_future(app.publish("orders", {"type": "work", "number": 1}))
            await asyncio.sleep(0)
            impatient.cancel()
            if not burst:
                serving.stop()
            await running
    gc.collect()
    print("tasks", len(asyncio.all_tasks()))

asyncio.run(main())
"""


def test_c12_no_task_outlives_its_worker(server):
    """Under asyncio's debug mode, with every warning an error: nothing is left over, nothing was never awaited."""
    environ = {"URL": server.url, "PYTHONASYNCIODEBUG": "1", "PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", LIFE]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    signs = ("Warning", "never", "destroyed", "unclosed", "Traceback")
    warnings = [line for line in ended.stderr.splitlines() if any(sign in line for sign in signs)]
    assert (ended.returncode, ended.stdout, warnings) == (0, "tasks 1\n", [])


@pytest.mark.slow
@pytest.mark.e2e
def test_c13_a_handler_that_blocks_the_loop_costs_nobody_a_lease(rig):
    """The beats are a thread's: for three times the lease nothing is taken over, and a warning names the handler."""
    rig.configure({**QUICK, "lease": "1s"})
    blocked = rig.worker("--concurrency", "2")
    rig.publish("gated", "neighbour")
    rig.started("neighbour")
    (greedy,) = rig.publish("block_loop", "greedy", payload={"seconds": 3})
    rig.started("greedy")
    rig.worker("--concurrency", "2")
    rig.finished("greedy")
    rig.open()
    rig.finished("neighbour")
    rig.empty()
    assert sorted(rig.keys_of("S")) == ["greedy", "neighbour"]
    (warning,) = [line for line in blocked.text().splitlines() if "the event loop is blocked" in line]
    assert "block_loop" in warning
    assert greedy.id in warning


async def test_c14_a_handler_that_hangs_is_ended_at_its_limit(house):
    """It is cancelled, its failure counts, and the message is run again."""
    app, attempts = house.app(ack_timeout=0.3), []

    @app.handler(QUEUE)
    async def work(ctx: Context):
        attempts.append(ctx.attempt)
        if ctx.attempt == 1:
            await asyncio.Event().wait()

    async with serving(app):
        await app.publish(QUEUE, {"type": "work"})
        await eventually(lambda: house.books.ledger().get("done") == 1)
    assert (attempts, house.books.ledger()["retried"]) == ([1, 2], 1)


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.parametrize("rig", SERVERS[:1], indirect=True)  # a thread of the worker decides
def test_c14_a_loop_that_hangs_for_ever_loses_its_message(rig):
    """Nobody can cancel what blocks the loop: its thread stops renewing 5 s after the limit, and another worker runs
    the message."""
    rig.configure({**QUICK, "lease": "1s"})
    hung = rig.worker("--concurrency", "1")
    rig.publish("block_loop", "hangs", payload={"seconds": 60}, timeout=0.5)
    rig.started("hangs")
    began = time.monotonic()
    other = rig.worker("--concurrency", "1")
    wait_until(lambda: rig.keys_of("S") == ["hangs", "hangs"], 20)
    assert 5 < time.monotonic() - began < 5.5 + 1 + 5
    assert [line.pid for line in rig.journal] == [hung.pid, other.pid]
