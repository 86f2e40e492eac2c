# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "dramatiq==2.2.1",
#   "redis==8.1.0",
#   "hiredis==3.5.0",
# ]
# ///
# mypy: ignore-errors
"""dramatiq: lists of ids and Lua, and threads."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import common

# isort: split
import dramatiq
from dramatiq.brokers.redis import RedisBroker

THREADS, CROWD = 8, 400  # for handlers that do not wait: its default; for those that wait, at most: more get less done
IDLE, IDLE_BY_DEFAULT = 10, 1000  # milliseconds that an idle worker backs off at most


def _broker(threads: int = 0) -> RedisBroker:
    broker = RedisBroker(url=common.redis_url(threads))
    dramatiq.set_broker(broker)
    return broker


@contextmanager
def publisher() -> Iterator[common.Sender]:
    """Connect; dramatiq blocks its caller and has no bulk call."""
    broker = _broker()

    @dramatiq.actor(queue_name=common.QUEUE, actor_name="consume")
    def consume(_: Any) -> None: ...

    yield common.Sender(consume.send)
    broker.close()


def work(kind: str, concurrency: int) -> None:
    """Run dramatiq's worker with threads in this process."""
    threads, idle = (min(concurrency, CROWD), IDLE_BY_DEFAULT) if kind == "sleep" else (THREADS, IDLE)
    broker, handle = _broker(threads), common.blocking_handler(kind)

    @dramatiq.actor(queue_name=common.QUEUE, actor_name="consume")
    def consume(message: Any) -> None:
        handle(message)

    worker = dramatiq.Worker(broker, worker_threads=threads, worker_timeout=idle)
    worker.queue_prefetch = 2 * concurrency  # what its variable dramatiq_queue_prefetch sets; 2 * threads by default
    stopped = common.stopping()
    worker.start()
    stopped.wait()
    worker.stop()


common.main(
    common.Peer(
        name="dramatiq",
        packages=("dramatiq", "redis", "hiredis"),
        settings=(
            f"one process, no results; for sleeping handlers up to {CROWD} threads, for others {THREADS}, its default, "
            f"with a back-off of {IDLE} ms (1 s by default) and a prefetch of twice the concurrency"
        ),
        delivery="at-least-once: acknowledged after the handler; a dead worker's are requeued after 60 s, by chance",
        publish=(common.ONE,),
        publisher=publisher,
        work=work,
    )
)
