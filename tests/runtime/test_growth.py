"""What a worker holds follows from what it does now, not from what it has done: nothing grows with the messages, with
the connections that it loses, or with the workers that ran before it in one process."""

import asyncio
import gc
import json
import os
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from streamq import Context, Drop, Reject, Retry, Snooze
from streamq.runtime import supervisor
from tests.runtime import child
from tests.runtime.rig import QUEUE, serving, until

ROUNDS = 20  # each leaves more behind than comes and goes by itself, if it leaves something
COMES_AND_GOES = 12  # objects of one kind
BLOCKS = 600  # of memory: caches of strings, tables that grow in steps


def held():
    """How many there are of what can be counted: objects, threads, descriptors, and blocks of memory."""
    gc.collect()
    blocks = sys.getallocatedblocks()
    counts = Counter(f"{type(found).__module__}.{type(found).__qualname__}" for found in gc.get_objects())
    counts |= {"threads": threading.active_count(), "descriptors": len(list(Path("/proc/self/fd").iterdir()))}
    return counts, blocks


def child_processes():
    """As the system knows them: also those that ended and that nobody has asked for their exit code yet."""
    return Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()


async def timers_forgotten():
    """The loop keeps timers that were cancelled until they are many."""
    for timer in [asyncio.get_running_loop().call_later(60, int) for _ in range(1000)]:
        timer.cancel()
    await asyncio.sleep(0)


async def grown(again, rounds=ROUNDS):
    """What there is more of after so many rounds, once everything has happened that happens only the first time."""
    for _ in range(3):
        await again()
        await timers_forgotten()
        before, blocks_before = held()  # looking, too, leaves something behind the first time
    for _ in range(rounds):
        await again()
    await timers_forgotten()
    after, blocks = held()
    found = {kind: more for kind, more in (after - before).items() if more > COMES_AND_GOES}
    if threading.gettrace():  # whoever measures coverage keeps something of every thread
        found.pop("builtins.method", None)
    more = blocks - blocks_before
    return found | ({"blocks": more} if more > BLOCKS else {})


async def plain(ctx: Context) -> None: ...


def thread(ctx: Context) -> None: ...


async def hanging() -> None:
    await asyncio.Event().wait()


def failing(error):
    """A handler that never gets anywhere."""

    async def fail() -> None:
        raise error("that is the point")

    return fail


def postponing(error):
    """A handler that wants to see each message again."""
    met = set()

    async def postpone(ctx: Context) -> None:
        if ctx.message.id not in met:
            met.add(ctx.message.id)
            raise error(after=0.001)
        met.remove(ctx.message.id)

    return postpone


# A handler for every way in which a message comes to its end.
HANDLERS = {
    "plain": (plain, {}),
    "thread": (thread, {}),
    "process": (child.fail, {"executor": "process"}),
    "again": (postponing(Retry), {}),
    "snoozing": (postponing(Snooze), {}),
    "unneeded": (failing(Drop), {}),
    "refused": (failing(Reject), {}),
    "doomed": (failing(OSError), {}),
    "hanging": (hanging, {"timeout": 0.001, "max_retries": 0}),
}


def ended(books):
    ledger = books.ledger()
    return sum(ledger.get(name, 0) for name in ("done", "dropped", "dead"))


async def test_messages_leave_nothing_behind(make_app, books):
    app = make_app(retry_delay=0.001, max_retries=1)
    for kind, (function, options) in HANDLERS.items():
        app.handler(QUEUE, type=kind, **options)(function)

    @app.middleware
    async def layer(_, call_next):
        return await call_next()

    async with app, serving(app, QUEUE) as worker:

        async def again():
            expected = ended(books) + len(HANDLERS) * ROUNDS
            for kind in HANDLERS:
                await app.publish_many(QUEUE, [{"type": kind}] * ROUNDS)
            await until(lambda: ended(books) == expected and not worker.running())
            worker.events.all.clear()

        assert await grown(again, 4) == {}


async def test_lost_connections_leave_nothing_behind(make_app, books, raw, monkeypatch):
    monkeypatch.setattr(supervisor, "reconnect_delay", lambda failures: 0.001)
    app = make_app()
    app.handler(QUEUE)(plain)
    async with app, serving(app, QUEUE) as worker:

        async def again():
            raw("CLIENT", "KILL", "TYPE", "normal")
            expected = ended(books) + 1
            await app.publish(QUEUE, {"type": "plain"})
            await until(lambda: ended(books) == expected and not worker.running())
            worker.events.all.clear()

        assert await grown(again) == {}


@pytest.mark.slow
@pytest.mark.timeout(180)  # children start the app one after the other
async def test_suspects_leave_nothing_behind(rig, tmp_path):
    """In a child that lives, in one that dies, and alone in the worker."""
    rig.app.registry = child.suspects.registry
    dispatcher = rig.dispatcher(suspects=child.serve)
    others = child_processes()  # the server
    payloads = [{"type": "work"}, {"type": "work", "dies": True}, {"type": "here"}]

    async def again():
        suspects = []
        for payload in payloads:
            text = json.dumps({**payload, "path": str(tmp_path / "out")})
            suspects += await rig.deliver(payload=text, deliveries=2)
        await rig.run(dispatcher, *suspects)
        await until(lambda: child_processes() == others)
        rig.events.all.clear()

    assert await grown(again, COMES_AND_GOES + 2) == {}


async def test_workers_leave_nothing_behind(make_app):
    """One app, and one burst after the other: each had left a connection open."""
    app = make_app()
    app.handler(QUEUE)(plain)
    async with app:

        async def again():
            await app.publish(QUEUE, {"type": "plain"})
            await app.worker(QUEUE, burst=True).run()

        assert await grown(again) == {}
