# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "repid==2.1.4",
#   "redis==8.1.0",
#   "hiredis==3.5.0",
#   "uvloop==0.23.0",
#   "typing_extensions==4.16.0",
# ]
# ///
# mypy: ignore-errors
"""repid: a stream and a task for each message, with another that keeps it alive."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import common

# isort: split
from repid import RedisServer, Repid, Router

BATCH, CLAIM = 500, 30.0  # messages of one XREADGROUP; seconds between two looks for lost ones


@asynccontextmanager
async def _app(concurrency: int, router: Router | None = None) -> AsyncIterator[Repid]:
    server, app = RedisServer(common.redis_url(concurrency), batch_size=BATCH, claim_interval=CLAIM), Repid()
    app.servers.register_server("bench", server, is_default=True)
    if router is not None:
        app.include_router(router)
    async with server.connection():
        yield app


@asynccontextmanager
async def publisher() -> AsyncIterator[common.Sender]:
    """Connect; repid has no bulk call."""
    async with _app(common.LANES) as app:
        topic = {"topic": "consume"}
        yield common.Sender(lambda message: app.send_message_json(channel=common.QUEUE, payload=message, headers=topic))


async def _work(kind: str, concurrency: int) -> None:
    router, handle = Router(), common.handler(kind)

    @router.actor(name="consume", channel=common.QUEUE)
    async def consume(type: str, sent: float, body: str) -> None:
        await handle({"type": type, "sent": sent, "body": body})

    async with _app(concurrency, router) as app:
        await app.run_worker(tasks_limit=concurrency)


def work(kind: str, concurrency: int) -> None:
    """Run repid's worker in this process."""
    common.run(_work(kind, concurrency))


common.main(
    common.Peer(
        name="repid",
        packages=("repid", "redis", "hiredis", "uvloop"),
        settings="one process, uvloop, reads 500 at once (10 by default), looks for lost messages (off by default)",
        delivery="at-least-once: XACK after the handler, which is kept alive; entries stay in the stream",
        publish=(common.ONE, common.CONCURRENT),
        publisher=publisher,
        work=work,
    )
)
