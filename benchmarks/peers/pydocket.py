# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "pydocket==0.27.0",
#   "redis==8.1.0",
#   "hiredis==3.5.0",
#   "uvloop==0.23.0",
# ]
# ///
# mypy: ignore-errors
"""pydocket: a stream and a hash for each execution."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import common

# isort: split
from docket import Docket, Worker

NONE, CHECK = timedelta(0), timedelta(milliseconds=10)


def _docket(concurrency: int) -> Docket:
    return Docket(name=common.QUEUE, url=common.redis_url(concurrency), execution_ttl=NONE)


@asynccontextmanager
async def publisher() -> AsyncIterator[common.Sender]:
    """Connect."""
    async with _docket(common.LANES) as docket:

        async def consume(_: Any) -> None: ...

        docket.register(consume)

        async def one(message: common.Payload) -> None:
            await docket.add(consume)(message)  # add() makes the key: one for each message

        async def many(messages: list[common.Payload]) -> None:
            await docket.add_many([docket.call(consume)(message) for message in messages])

        yield common.Sender(one, many)


async def _work(kind: str, concurrency: int) -> None:
    handle = common.handler(kind)

    async def consume(message: Any) -> None:
        await handle(message)

    async with _docket(concurrency) as docket:
        docket.register(consume)
        async with Worker(docket, concurrency=concurrency, minimum_check_interval=CHECK) as worker:
            await common.until_stopped(worker.run_forever())


def work(kind: str, concurrency: int) -> None:
    """Run docket's worker in this process."""
    common.run(_work(kind, concurrency))


common.main(
    common.Peer(
        name="pydocket",
        packages=("pydocket", "redis", "hiredis", "uvloop"),
        settings="one process, uvloop, no execution records kept, looks for work every 10 ms: 250 limit its rate",
        delivery="at-least-once: acknowledged after the handler; redelivered after 5 minutes without a renewal",
        publish=(common.ONE, common.CONCURRENT, common.MANY),
        publisher=publisher,
        work=work,
    )
)
