# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "saq==0.26.4",
#   "redis==8.1.0",
#   "hiredis==3.5.0",
#   "uvloop==0.23.0",
#   "typing_extensions==4.16.0",
# ]
# ///
# mypy: ignore-errors
"""saq: ids in a list, each job in a key of its own, a connection for each job in flight."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import common

# isort: split
from saq import Queue, Worker

DISCARD = -1  # no result is kept


def _queue(concurrency: int) -> Queue:
    return Queue.from_url(common.redis_url(concurrency), name=common.QUEUE, max_concurrent_ops=concurrency)


@asynccontextmanager
async def publisher() -> AsyncIterator[common.Sender]:
    """Connect; saq has no bulk call."""
    queue = _queue(common.LANES)
    await queue.connect()
    yield common.Sender(lambda message: queue.enqueue("consume", message=message, ttl=DISCARD))
    await queue.disconnect()


async def _work(kind: str, concurrency: int) -> None:
    handle = common.handler(kind)

    async def consume(_: Any, *, message: Any) -> None:
        await handle(message)

    queue = _queue(concurrency)
    await queue.sweep()  # the next one comes in a minute: at its start, a worker takes what it just fetched for stuck
    await Worker(queue, functions=[("consume", consume)], concurrency=concurrency).start()
    await queue.disconnect()


def work(kind: str, concurrency: int) -> None:
    """Run saq's worker in this process."""
    common.run(_work(kind, concurrency))


common.main(
    common.Peer(
        name="saq",
        packages=("saq", "redis", "hiredis", "uvloop"),
        settings="one process, uvloop, no results, as many Redis operations at once as jobs (20 by default)",
        delivery="at-least-once for jobs with retries left: a sweeper finds those of dead workers after their timeout",
        publish=(common.ONE, common.CONCURRENT),
        publisher=publisher,
        work=work,
    )
)
