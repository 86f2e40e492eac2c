# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "streaq==7.2.0",
#   "coredis==6.9.0",
#   "uvloop==0.23.0",
# ]
# ///
# mypy: ignore-errors
"""streaq: streams and Lua functions through coredis."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import common

# isort: split
from streaq import Worker


def _worker(**options: Any) -> Worker:
    return Worker(common.redis_url(), queue_name=common.QUEUE, anyio_kwargs={"use_uvloop": True}, **options)


@asynccontextmanager
async def publisher() -> AsyncIterator[common.Sender]:
    """Connect."""
    worker = _worker()

    @worker.task(name="consume", ttl=0, silent=True)
    async def consume(_: Any) -> None: ...

    async def one(message: common.Payload) -> None:
        await consume.enqueue(message)

    async def many(messages: list[common.Payload]) -> None:
        await worker.enqueue_many([consume.enqueue(message) for message in messages])

    async with worker:
        yield common.Sender(one, many)


def work(kind: str, concurrency: int) -> None:
    """Run streaq's worker in this process."""
    worker, handle = _worker(concurrency=concurrency, prefetch=10 * concurrency), common.handler(kind)

    @worker.task(name="consume", ttl=0, silent=True)
    async def consume(message: Any) -> None:
        await handle(message)

    worker.run_sync()


common.main(
    common.Peer(
        name="streaq",
        packages=("streaq", "coredis", "uvloop"),
        settings="one process, uvloop, no results, silent tasks, prefetch of ten times the concurrency",
        delivery="at-least-once: XACK and XDEL after the handler; takes over what was not renewed for 60 s",
        publish=(common.ONE, common.CONCURRENT, common.MANY),
        publisher=publisher,
        work=work,
    )
)
