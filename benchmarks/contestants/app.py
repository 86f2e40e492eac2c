"""What a user of streamq would write: an app with a handler. The environment says which, and for how many queues."""

# ruff: noqa: ARG001 - the parameters of a handler are the fields of its payload

import asyncio
import os
import struct
import time

from benchmarks.contestants.entry import KEYS
from benchmarks.peers.common import NAP, QUEUE, counter_cell, stamps_file
from streamq import StreamQ

KIND, QUEUES = "BENCH_KIND", "BENCH_QUEUES"  # variables: the kind of handler, and the number of queues
# Defaults but for the length of a queue: that of 10,000 would refuse what is to be drained.
SETTINGS = {"STREAMQ_SIGNING_KEYS": KEYS, "STREAMQ_DEFAULTS__MAX_LENGTH": "0"}


def queue_names(count: int = 0) -> list[str]:
    """The queues of a run; the first is everybody's.

    Args:
        count: so many; by default as many as the environment says.
    """
    count = count or int(os.environ.get(QUEUES, "1"))
    return [QUEUE, *(f"{QUEUE}{number}" for number in range(2, count + 1))]


async def noop(sent: float, body: str) -> None:
    """Do nothing."""
    counter[0] += 1


async def sleep(sent: float, body: str) -> None:
    """Wait, as for somebody else's answer."""
    await asyncio.sleep(NAP)
    counter[0] += 1


async def stamp(sent: float, body: str) -> None:
    """Write down how long the message was on its way."""
    os.write(stamps, struct.pack("d", time.time() - sent))
    counter[0] += 1


app = StreamQ()
if KIND in os.environ:  # in a worker
    counter, stamps = counter_cell(), stamps_file()
    app.handler(queue_names(), type="noop")({"noop": noop, "sleep": sleep, "stamp": stamp}[os.environ[KIND]])
