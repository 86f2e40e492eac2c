# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "tarsk-redis==0.2.1",
# ]
# ///
# mypy: ignore-errors
"""tarsk: a supervisor in Rust that reads the stream, and a Python child that runs the handlers."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    import common
else:  # the child imports this file as a part of its package
    from benchmarks.peers import common

# isort: split
from tarsk import App

KIND = "BENCH_KIND"  # a variable for the child: the kind of handler that it runs

APP = App(broker=os.environ["BENCH_REDIS_URL"]) if "BENCH_REDIS_URL" in os.environ else App()
handle = common.handler(os.environ[KIND]) if KIND in os.environ else None


@APP.task(name="consume", queue=common.QUEUE)
async def consume(message: Any) -> None:
    """What the child runs for each message."""
    await handle(message)


@contextmanager
def publisher() -> Iterator[common.Sender]:
    """Connect; tarsk's Rust blocks its caller, its asynchronous form is the same call in a thread."""
    yield common.Sender(consume.send)


def work(kind: str, concurrency: int) -> None:
    """Run tarsk's supervisor in this process, with one child."""
    from tarsk._supervisor import Supervisor

    root = Path(__file__).parents[2]
    os.environ.update({KIND: kind, "PYTHONPATH": str(root)})
    Supervisor("benchmarks.peers.tarsk:APP", children=1, slots=concurrency).work(common.redis_url(), [common.QUEUE])


if __name__ == "__main__":
    common.main(
        common.Peer(
            name="tarsk",
            language="Rust and Python",
            packages=("tarsk-redis",),
            settings="a supervisor with one child, a slot for each handler, no results; its child has no uvloop",
            delivery="at-least-once: acknowledged after the handler, given again after its time limit and 30 s",
            publish=(common.ONE,),
            publisher=publisher,
            work=work,
        )
    )
