# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "taskiq==0.13.0",
#   "taskiq-redis==1.2.4",
#   "redis==8.1.0",
#   "hiredis==3.5.0",
#   "uvloop==0.23.0",
# ]
# ///
# mypy: ignore-errors
"""taskiq: the stream broker of taskiq-redis."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import common

# isort: split
from taskiq.acks import AcknowledgeType
from taskiq.api import run_receiver_task
from taskiq_redis import RedisStreamBroker


def _broker(concurrency: int) -> RedisStreamBroker:
    return RedisStreamBroker(common.redis_url(), queue_name=common.QUEUE, consumer_id="0", xread_count=concurrency)


@asynccontextmanager
async def publisher() -> AsyncIterator[common.Sender]:
    """Connect; taskiq has no bulk call."""
    broker = _broker(common.LANES)

    @broker.task("consume")
    async def consume(_: Any) -> None: ...

    await broker.startup()
    yield common.Sender(consume.kiq)
    await broker.shutdown()


async def _work(kind: str, concurrency: int) -> None:
    broker, handle = _broker(concurrency), common.handler(kind)

    @broker.task("consume")
    async def consume(message: Any) -> None:
        await handle(message)

    acks = {"ack_time": AcknowledgeType.WHEN_EXECUTED}
    limits = {"max_async_tasks": concurrency, "max_prefetch": concurrency}
    await common.until_stopped(run_receiver_task(broker, run_startup=True, **acks, **limits))
    await broker.shutdown()


def work(kind: str, concurrency: int) -> None:
    """Run taskiq's receiver in this process."""
    common.run(_work(kind, concurrency))


common.main(
    common.Peer(
        name="taskiq",
        packages=("taskiq", "taskiq-redis", "redis", "hiredis", "uvloop"),
        settings="one process (its receiver without the manager process), uvloop, stream broker, no results, prefetch",
        delivery="at-least-once: XACK after the handler, entries stay in the stream; reclaims after 600 s",
        publish=(common.ONE, common.CONCURRENT),
        publisher=publisher,
        work=work,
    )
)
