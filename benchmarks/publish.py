"""Publish: one at a time, many at once, and in bulk, beside the plain XADDs of the same entries."""

import asyncio
from collections.abc import Awaitable, Callable

from benchmarks.support import PAYLOAD, QUEUE, ROUNDS, app, client, rate, row, settings
from streamq.core import codec
from streamq.core.options import Options
from streamq.session import open_session

SINGLE, CONCURRENT, BULK = 1_000, 10_000, 20_000


async def run(url: str) -> list[dict[str, object]]:
    """Interleaved rounds of each way and its baseline."""
    return [
        await _pair(url, SINGLE, _one_by_one, _xadd_one_by_one, ("publish, one at a time", "redis-py XADD")),
        await _pair(url, CONCURRENT, _at_once, _xadd_at_once, ("publish, 100 at once", "redis-py XADD, 100 at once")),
        await _pair(url, BULK, _bulk, _xadd_pipelined, ("publish_many", "redis-py XADD, pipelines of 500")),
    ]


Way = Callable[[str, int], Awaitable[None]]


async def _pair(url: str, count: int, way: Way, plain: Way, what: tuple[str, str]) -> dict[str, object]:
    ours, baseline = [], []
    for _ in range(ROUNDS):
        await _empty(url)
        ours.append(await rate(count, lambda: way(url, count)))
        await _empty(url)
        baseline.append(await rate(count, lambda: plain(url, count)))
    return row(what[0], ours, baseline, what[1])


async def _empty(url: str) -> None:
    async with client(url) as redis:
        await redis.flushall()


async def _one_by_one(url: str, count: int) -> None:
    async with app(url) as publisher:
        for _ in range(count):
            await publisher.publish(QUEUE, PAYLOAD)


async def _at_once(url: str, count: int) -> None:
    async with app(url) as publisher:
        for _ in range(count // 100):
            await asyncio.gather(*(publisher.publish(QUEUE, PAYLOAD) for _ in range(100)))


async def _bulk(url: str, count: int) -> None:
    async with app(url) as publisher:
        await publisher.publish_many(QUEUE, [PAYLOAD] * count)


async def _entry(url: str) -> dict[bytes, bytes]:
    async with open_session(settings(url)) as session:
        config = session.settings.config.queue(QUEUE)
        flat = session.publisher.draft(config, codec.encode_payload(PAYLOAD), Options()).fields
    return dict(zip(flat[::2], flat[1::2], strict=True))


async def _xadd_one_by_one(url: str, count: int) -> None:
    entry = await _entry(url)
    async with client(url) as redis:
        for _ in range(count):
            await redis.xadd(f"queue:{QUEUE}", entry)


async def _xadd_at_once(url: str, count: int) -> None:
    entry = await _entry(url)
    async with client(url) as redis:
        for _ in range(count // 100):
            await asyncio.gather(*(redis.xadd(f"queue:{QUEUE}", entry) for _ in range(100)))


async def _xadd_pipelined(url: str, count: int) -> None:
    entry = await _entry(url)
    async with client(url) as redis:
        for _ in range(count // 500):
            async with redis.pipeline(transaction=False) as pipe:
                for _ in range(500):
                    pipe.xadd(f"queue:{QUEUE}", entry)
                await pipe.execute()
