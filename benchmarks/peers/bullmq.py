# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "bullmq==3.4.4",
#   "hiredis==3.5.0",
#   "uvloop==0.23.0",
# ]
# ///
# mypy: ignore-errors
"""bullmq for Python: lists, hashes and Lua, as bullmq for node."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import common

# isort: split
from bullmq import Queue, Worker

CROWD = 200  # jobs in flight at most: with more it gets less done
REMOVE = {"removeOnComplete": True}


@asynccontextmanager
async def publisher() -> AsyncIterator[common.Sender]:
    """Connect."""
    queue = Queue(common.QUEUE, {"connection": common.redis_url()})

    async def many(messages: list[common.Payload]) -> None:
        await queue.addBulk([{"name": "consume", "data": message, "opts": REMOVE} for message in messages])

    yield common.Sender(lambda message: queue.add("consume", message, REMOVE), many)
    await queue.close()


async def _work(kind: str, concurrency: int) -> None:
    handle = common.handler(kind)

    async def consume(job: Any, _: Any) -> None:
        await handle(job.data)

    worker = Worker(common.QUEUE, consume, {"connection": common.redis_url(), "concurrency": min(concurrency, CROWD)})
    await common.until_stopped(asyncio.Event().wait())
    await worker.close()


def work(kind: str, concurrency: int) -> None:
    """Run bullmq's worker in this process."""
    common.run(_work(kind, concurrency))


common.main(
    common.Peer(
        name="bullmq",
        packages=("bullmq", "redis", "hiredis", "uvloop"),
        settings=f"one process, uvloop, completed jobs are removed, concurrency of {CROWD} at most: more slows it down",
        delivery="at-least-once: a lock of 30 s for each job is renewed; stalled jobs go back, once by default",
        publish=(common.ONE, common.CONCURRENT, common.MANY),
        publisher=publisher,
        work=work,
    )
)
