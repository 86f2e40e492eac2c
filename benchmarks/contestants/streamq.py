"""streamq as its users run it: ``streamq worker`` with its defaults, signed messages, uvloop.

Run it with ``python -P``: otherwise `import streamq` would mean this very file.
"""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from benchmarks.contestants.app import KIND, SETTINGS, queue_names
from benchmarks.peers import common
from streamq import StreamQ
from streamq.settings import load_settings


def work(kind: str, concurrency: int) -> None:
    """Become one worker."""
    environment = {**os.environ, **SETTINGS, KIND: kind, "STREAMQ_REDIS_URL": common.redis_url()}
    command = ["-m", "streamq", "worker", "--app", "benchmarks.contestants.app:app", "--concurrency", str(concurrency)]
    for queue in queue_names():
        command += ["--queue", queue]
    os.execve(sys.executable, [sys.executable, *command], environment)


@asynccontextmanager
async def publisher() -> AsyncIterator[common.Sender]:
    """By the name of the queue, as anybody publishes who has the app at hand."""
    settings = load_settings(redis_url=common.redis_url(), environ=SETTINGS, start=Path("/"))
    async with StreamQ(settings=settings) as app:
        yield common.Sender(partial(app.publish, common.QUEUE), partial(app.publish_many, common.QUEUE))


PEER = common.Peer(
    name="streamq",
    packages=("streamq", "redis", "hiredis", "msgspec", "anyio", "uvloop"),
    settings="`streamq worker` with every default: one process, signatures required, leases, ledger, time limits and "
    "retries on; only max_length is off",
    delivery="at-least-once; what a dead worker held runs elsewhere within 15 s",
    publish=(common.ONE, common.CONCURRENT, common.MANY),
    publisher=publisher,
    work=work,
    signed=True,
)

if __name__ == "__main__":
    common.main(PEER)
