# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "arq==0.28.0",
#   "hiredis==3.5.0",
#   "uvloop==0.23.0",
# ]
# ///
# mypy: ignore-errors
"""arq: ids in a sorted set that workers poll, each job in a key of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import common

# isort: split
from arq import create_pool, func
from arq.connections import RedisSettings
from arq.worker import Worker


def _redis() -> RedisSettings:
    return RedisSettings.from_dsn(common.redis_url())


@asynccontextmanager
async def publisher() -> AsyncIterator[common.Sender]:
    """Connect; arq makes a transaction of each job and has no bulk call."""
    pool = await create_pool(_redis())
    yield common.Sender(lambda message: pool.enqueue_job("consume", message))
    await pool.aclose()


def work(kind: str, concurrency: int) -> None:
    """Run arq's worker in this process."""
    handle = common.handler(kind)

    async def consume(_: Any, message: Any) -> None:
        await handle(message)

    common.use_uvloop()
    options = {"max_jobs": concurrency, "keep_result": 0, "poll_delay": 0.01, "log_results": False}
    Worker([func(consume, name="consume")], redis_settings=_redis(), **options).run()


common.main(
    common.Peer(
        name="arq",
        packages=("arq", "redis", "hiredis", "uvloop"),
        settings="one process, uvloop, no results, polls every 10 ms (0.5 s by default) as that is its latency",
        delivery="at-least-once: what a dead worker had is run again when job_timeout + 10 s are over",
        publish=(common.ONE, common.CONCURRENT),
        publisher=publisher,
        work=work,
    )
)
