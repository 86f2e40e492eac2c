# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "huey==3.5.4",
#   "redis==8.1.0",
#   "hiredis==3.5.0",
# ]
# ///
# mypy: ignore-errors
"""huey: a list and threads that pop it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import common

# isort: split
from huey import RedisHuey

THREADS, CROWD = 4, 200  # for handlers that do not wait; for those that wait, at most: more get less done


def _huey(threads: int = 0) -> RedisHuey:
    return RedisHuey(common.QUEUE, url=common.redis_url(threads), results=False)


@contextmanager
def publisher() -> Iterator[common.Sender]:
    """Connect; huey blocks its caller and has no bulk call."""
    huey = _huey()

    @huey.task(name="consume")
    def consume(_: Any) -> None: ...

    yield common.Sender(consume)


def work(kind: str, concurrency: int) -> None:
    """Run huey's consumer with threads in this process."""
    threads, handle = min(concurrency, CROWD) if kind == "sleep" else THREADS, common.blocking_handler(kind)
    huey = _huey(threads)

    @huey.task(name="consume")
    def consume(message: Any) -> None:
        handle(message)

    huey.create_consumer(workers=threads, periodic=False).run()


common.main(
    common.Peer(
        name="huey",
        packages=("huey", "redis", "hiredis"),
        settings=f"one process, {THREADS} threads, for sleeping handlers up to {CROWD}, blocking pop, no results",
        delivery="at-most-once: a message is popped before its handler runs; huey has nothing stronger",
        publish=(common.ONE,),
        publisher=publisher,
        work=work,
    )
)
