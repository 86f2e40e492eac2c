"""Drain: how fast one worker empties a full queue of signed messages, beside a loop written by hand with redis-py."""

import asyncio
from typing import Any

from benchmarks.support import PAYLOAD, QUEUE, ROUNDS, app, client, keys, rate, row

COUNT = 20_000
AGAINST = "redis-py loop: XREADGROUP 500, verify, await, XACK + XDEL"


async def run(url: str) -> list[dict[str, object]]:
    """Interleaved rounds of both."""
    ours, baseline = [], []
    for _ in range(ROUNDS):
        await _fill(url)
        ours.append(await rate(COUNT, lambda: app(url).worker(QUEUE, concurrency=100, burst=True).run()))
        await _fill(url)
        baseline.append(await rate(COUNT, lambda: _by_hand(url)))
    return [row("drain, concurrency 100, signed", ours, baseline, AGAINST)]


async def _fill(url: str) -> None:
    async with client(url) as redis:
        await redis.flushall()
    async with app(url) as publisher:
        await publisher.publish_many(QUEUE, [PAYLOAD] * COUNT)


async def _by_hand(url: str) -> None:
    stream, ring = f"queue:{QUEUE}", keys()

    async def handler(_fields: dict[bytes, bytes]) -> None: ...

    async with client(url) as redis:
        await redis.xgroup_create(stream, "streamq", "0")
        while True:
            reply: Any = await redis.xreadgroup("streamq", "by-hand", {stream: ">"}, count=500)
            if not reply:
                return
            entries = reply[0][1]
            for _, fields in entries:
                if ring.verify(QUEUE, fields) is not None:
                    raise RuntimeError("a bad signature")
            await asyncio.gather(*(handler(fields) for _, fields in entries))
            ids = [entry for entry, _ in entries]
            async with redis.pipeline(transaction=False) as pipe:
                await pipe.xack(stream, "streamq", *ids).xdel(stream, *ids).execute()
