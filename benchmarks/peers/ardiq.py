# /// script
# requires-python = ">=3.12"
# dependencies = [
#   "ardiq==1.2.0",
#   "uvloop==0.23.0",
# ]
# ///
# mypy: ignore-errors
"""ardiq: its worker loop and its Redis commands are Rust, the handlers run on Python's event loop."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import common

# isort: split
from ardiq import Ardiq

LANES = ["default"]  # one priority instead of three streams to read


@asynccontextmanager
async def publisher() -> AsyncIterator[common.Sender]:
    """Connect: ardiq does that with the first message."""
    app = Ardiq(common.redis_url(), common.QUEUE, LANES)
    consume = app.ref("consume")

    async def many(messages: list[common.Payload]) -> None:
        await app.enqueue_many(consume.prepare(message) for message in messages)

    yield common.Sender(consume.enqueue, many)


async def _work(kind: str, concurrency: int) -> None:
    handle, limits = common.handler(kind), {"concurrency": concurrency, "prefetch": 10 * concurrency}
    app = Ardiq(common.redis_url(), common.QUEUE, LANES, result_ttl_ms=0, **limits)

    @app.task(name="consume")
    async def consume(message: dict) -> None:
        await handle(message)

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, app.stop)
    await app.run()


def work(kind: str, concurrency: int) -> None:
    """Run ardiq's worker in this process."""
    common.run(_work(kind, concurrency))


common.main(
    common.Peer(
        name="ardiq",
        language="Rust and Python",
        packages=("ardiq", "uvloop"),
        settings="one process with Rust threads, uvloop, one priority, no results, prefetch ten times the concurrency",
        delivery="at-least-once: acknowledged after the handler; reclaimed after 60 s",
        publish=(common.ONE, common.CONCURRENT, common.MANY),
        publisher=publisher,
        work=work,
    )
)
