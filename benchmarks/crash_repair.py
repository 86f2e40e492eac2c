"""Crash repair: a worker that runs 1,000 messages is killed. How long until each of them runs again, elsewhere?

``python -m benchmarks.crash_repair [KILLS]`` prints percentiles over all messages of all kills. Every time limit is at
its default and the handlers run for an hour, so that nothing but the missing beat tells that their worker is gone.
"""

import asyncio
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from streamq import StreamQ
from streamq.cli.output import print_table
from streamq.cli.run import run_async
from streamq.settings import load_settings
from streamq.testing.server import PrivateServer

QUEUE = "repair_queue"
IN_FLIGHT, KILLS = 1000, 5
NOTES, HOLD = "CRASH_REPAIR_NOTES", "CRASH_REPAIR_HOLD"  # variables: a file, and the seconds that a handler takes
NO_LIMIT = {"STREAMQ_DEFAULTS__MAX_LENGTH": "0", "LOG_LEVEL": "error"}
BEAT = 2.5  # seconds between two beats
PATIENCE = 90.0  # seconds for each step

app = StreamQ()


@app.handler(QUEUE)
async def hold(number: int) -> None:
    """Write down that it started, then take its time."""
    file = os.open(os.environ[NOTES], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{number} {time.monotonic():.6f}\n".encode())
    os.close(file)
    await asyncio.sleep(float(os.environ[HOLD]))


class Repair(NamedTuple):
    """What became of one kill.

    Attributes:
        seconds: for each message, from the kill to its second start.
        starts: how often each message was started.
        imbalance: messages that the books miss.
        done: messages that were done at the end.
    """

    seconds: list[float]
    starts: Counter[int]
    imbalance: int
    done: int


async def repair(url: str, folder: Path, in_flight: int = IN_FLIGHT) -> Repair:
    """Kill a worker while another one is idle, and watch that one take over.

    Args:
        url: of an empty Redis.
        folder: an empty one, for the notes of the handlers.
        in_flight: messages that run when their worker is killed.
    """
    notes = folder / "notes"
    async with StreamQ(settings=load_settings(redis_url=url, environ=NO_LIMIT, start=Path("/"))) as publisher:
        inspector = publisher.session.inspector

        async def beating() -> int:
            return len(await inspector.workers(QUEUE))

        async def started() -> int:
            return len(_starts(notes))

        async def done() -> int:
            return (await inspector.moment(QUEUE)).counters.get("done", 0)

        with _worker(url, notes, in_flight, seconds=3600) as victim:
            await _until(beating, 1)
            await publisher.publish_many(QUEUE, [{"type": "hold", "number": number} for number in range(in_flight)])
            await _until(started, in_flight)
            with _worker(url, notes, in_flight, seconds=2):
                await _until(beating, 2)
                await asyncio.sleep(random.uniform(0, BEAT))  # somewhere between two beats of each
                victim.kill()
                killed_at = time.monotonic()
                await _until(done, in_flight)
        moment = await inspector.moment(QUEUE)
    starts = _starts(notes)
    return Repair(
        [at - killed_at for _, at in starts if at > killed_at], Counter(number for number, _ in starts),
        moment.imbalance, moment.counters["done"],
    )  # fmt: skip


@contextmanager
def _worker(url: str, notes: Path, concurrency: int, *, seconds: float) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker process whose handlers take so long; it is killed at the end."""
    command = ["worker", "--app", "benchmarks.crash_repair:app", "--queue", QUEUE, "--concurrency", str(concurrency)]
    environment = {**NO_LIMIT, "STREAMQ_REDIS_URL": url, NOTES: str(notes), HOLD: str(seconds)}
    root = Path(__file__).parent.parent
    process = subprocess.Popen(
        [sys.executable, "-m", "streamq", *command],
        cwd=notes.parent,
        env={**os.environ, "PYTHONPATH": str(root), **environment},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _starts(notes: Path) -> list[tuple[int, float]]:
    lines = notes.read_text().splitlines() if notes.exists() else []
    return [(int(number), float(at)) for number, at in map(str.split, lines)]


async def _until(count: Callable[[], Awaitable[int]], wanted: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while (found := await count()) < wanted:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{found} instead of {wanted} after {PATIENCE:.0f} s")
        await asyncio.sleep(0.05)


async def main() -> None:
    """Kill workers and print how long repair took."""
    seconds: list[float] = []
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else KILLS
    for kill in range(kills):
        print(f"kill {kill + 1} of {kills} ...", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix="streamq-repair-") as folder, PrivateServer() as server:
            found = await repair(server.url, Path(folder))
        if set(found.starts.values()) != {2} or found.imbalance != 0:
            raise SystemExit(f"not every message ran once more and no more: {Counter(found.starts.values())}")
        seconds += found.seconds
    cuts = statistics.quantiles(seconds, n=100)
    row = {
        "kills": kills, "in flight each": IN_FLIGHT, "run again": len(seconds), "p50 s": round(cuts[49], 1),
        "p99 s": round(cuts[98], 1), "max s": round(max(seconds), 1),
    }  # fmt: skip
    print_table([row], list(row))


if __name__ == "__main__":
    run_async(main)
