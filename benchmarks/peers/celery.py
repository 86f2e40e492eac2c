# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "celery==5.7.0",
#   "kombu==5.7.0",
#   "redis==8.1.0",
#   "hiredis==3.5.0",
#   "packaging==26.3",
# ]
# ///
# mypy: ignore-errors
"""celery: kombu's lists, processes for handlers that compute and threads for those that wait."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import common

# isort: split
from celery import Celery
from celery.signals import worker_process_init

PREFETCH = 100  # messages for each process or thread
NOTHING = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
HANDLERS = []


def _app() -> Celery:
    app = Celery(common.QUEUE, broker=common.redis_url())
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        task_default_queue=common.QUEUE,
        worker_prefetch_multiplier=PREFETCH,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
    )
    return app


@contextmanager
def publisher() -> Iterator[common.Sender]:
    """Connect; celery blocks its caller and has no bulk call."""
    app = _app()

    @app.task(name="consume")
    def consume(_: Any) -> None: ...

    yield common.Sender(consume.delay)
    app.close()


def work(kind: str, concurrency: int) -> None:
    """Run celery's worker: this process and its pool."""
    app = _app()

    @app.task(name="consume")
    def consume(message: Any) -> None:
        HANDLERS[0](message)

    if kind == "sleep":
        pool = ["--pool=threads", f"--concurrency={concurrency}"]
        HANDLERS.append(common.blocking_handler(kind))
    else:
        pool = ["--pool=prefork", f"--concurrency={os.cpu_count()}"]
        worker_process_init.connect(
            lambda **_: HANDLERS.append(common.blocking_handler(kind, own_cell=True)), weak=False
        )
    app.worker_main(["--quiet", "worker", "--loglevel=ERROR", *NOTHING, *pool])


common.main(
    common.Peer(
        name="celery",
        packages=("celery", "kombu", "redis", "hiredis"),
        settings=(
            "a worker with a process for each core, for sleeping handlers with a thread for each; prefetch of "
            f"{PREFETCH} each (4 by default), no results, no gossip, mingle, heartbeats, events or remote control"
        ),
        delivery="at-least-once with acks_late and reject_on_worker_lost: given again after 1 h",
        publish=(common.ONE,),
        publisher=publisher,
        work=work,
    )
)
