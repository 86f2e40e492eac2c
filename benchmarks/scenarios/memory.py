"""What a worker needs, and what a message needs in Redis.

A worker that has just started; the same after many messages; one that works beside a long queue and many delayed
messages, less one that works beside a short one. In Redis: all that grows with the queue, by message, over the bytes of
an entry's names and values.
"""

import asyncio
import time
from pathlib import Path

from benchmarks.contestants.app import SETTINGS
from benchmarks.harness import Bench
from benchmarks.peers.common import QUEUE, payload
from benchmarks.results import Row
from benchmarks.runs import Arena
from streamq import StreamQ
from streamq.settings import load_settings

SILENT_ON = (
    "Resident memory counts pages that processes share. What is published within five minutes is remembered by its id "
    "to find duplicates; older messages need less."
)
STREAM = f"queue:{QUEUE}"
DELAY = 24 * 3600.0  # seconds: not due while anybody looks
BULK = 1000
SETTLED = 2.0  # seconds of work after which a worker's memory is read


def run(bench: Bench) -> list[Row]:
    """Weigh the worker, then the queue."""
    many = bench.pick(10_000, 100_000, 1_000_000)
    delayed = bench.pick(1_000, 10_000, 100_000)
    bench.counts |= {"queued": many, "delayed": delayed}
    bench.tell("a worker before and after its work")
    idle, grown = _worker(bench, many)
    bench.tell("a queue in Redis")
    all_keys, stream = _queue(bench, many)
    bench.tell("a worker beside a long queue")
    beside = _beside(bench, many, delayed) - _beside(bench, BULK * 10, 0)
    return [
        Row("streamq", "worker, idle", "MiB", [idle], goal=40, stretch=32),
        Row("streamq", f"worker, more after {many:,} messages", "MiB", [grown - idle], goal=5),
        Row("streamq", f"worker, more beside {many:,} queued and {delayed:,} delayed", "MiB", [beside], goal=1),
        Row("streamq", "Redis, a queued message over its entry", "x", [all_keys], goal=1.5),
        Row("streamq", "Redis, the stream alone", "x", [stream]),
    ]


def _worker(bench: Bench, many: int) -> tuple[float, float]:
    with bench.arena() as arena, arena.working(bench.us, "noop", 100) as worker:
        while not arena.server.client.info("clients")["blocked_clients"]:  # it waits for its first message
            worker.process.check()
            time.sleep(0.1)
        time.sleep(SETTLED)
        idle = worker.rss_mib
        arena.until(arena.publish(bench.us, "many", many).queued)
        time.sleep(SETTLED)
        return idle, worker.rss_mib


def _queue(bench: Bench, many: int) -> tuple[float, float]:
    with bench.arena() as arena:
        client = arena.server.client
        before = arena.server.memory
        queued = arena.publish(bench.us, "many", many).queued
        after, stream = arena.server.memory, client.memory_usage(STREAM, samples=0)
        ((_, fields),) = client.xrange(STREAM, count=1)
    entry = sum(len(name) + len(value) for name, value in fields.items())
    return (after - before) / queued / entry, stream / queued / entry


def _beside(bench: Bench, queued: int, delayed: int) -> float:
    """Memory of a worker of slow handlers while so many messages lie there."""
    snapshot, _ = bench.filled(bench.us, queued)
    with bench.arena(snapshot) as arena:
        if delayed:
            asyncio.run(_delay(arena, delayed))
        with arena.working(bench.us, "sleep", 100) as worker:
            arena.until(1)
            time.sleep(SETTLED)
            return worker.rss_mib


async def _delay(arena: Arena, count: int) -> None:
    settings = load_settings(redis_url=arena.server.url, environ=SETTINGS, start=Path("/"))
    async with StreamQ(settings=settings) as app:
        for start in range(0, count, BULK):
            await app.publish_many(QUEUE, [payload()] * min(BULK, count - start), delay=DELAY)
