# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "rq==3.0.0",
#   "redis==8.1.0",
#   "hiredis==3.5.0",
# ]
# ///
# mypy: ignore-errors
"""rq: a list of ids, each job in a hash of its own, one job at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import common

# isort: split
from redis import Redis
from rq import Queue, SimpleWorker

HANDLERS = []


def consume(message: Any) -> None:
    """What rq finds by its name; it fills the list when it works."""
    HANDLERS[0](message)


@contextmanager
def publisher() -> Iterator[common.Sender]:
    """Connect; rq blocks its caller."""
    with Redis.from_url(common.redis_url()) as redis:
        queue = Queue(common.QUEUE, connection=redis)
        name, options = f"{__name__}.consume", {"result_ttl": 0}

        def many(messages: list[common.Payload]) -> None:
            queue.enqueue_many([Queue.prepare_data(name, (message,), **options) for message in messages])

        yield common.Sender(lambda message: queue.enqueue(name, message, **options), many)


def work(kind: str, _: int) -> None:
    """Run rq's worker that does not fork."""
    HANDLERS.append(common.blocking_handler(kind))
    with Redis.from_url(common.redis_url()) as redis:
        SimpleWorker([common.QUEUE], connection=redis).work(logging_level="ERROR")


common.main(
    common.Peer(
        name="rq",
        packages=("rq", "redis", "hiredis"),
        settings="SimpleWorker: one job at a time in one process; the usual worker forks for each job and is slower",
        delivery="a job of a dead worker stays in a registry of started jobs and is marked failed, not run again",
        publish=(common.ONE, common.MANY),
        publisher=publisher,
        work=work,
    )
)
