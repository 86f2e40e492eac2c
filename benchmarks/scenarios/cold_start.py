"""How long one waits for the command line, and for the first message of a new worker.

From exec to the end of ``streamq --help``, and from exec of ``streamq worker`` until the handler of a message that lay
there has run. Files are in the cache of the system, as they are on every start but the first.
"""

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.contestants.app import KIND, SETTINGS
from benchmarks.harness import Bench
from benchmarks.peers.common import QUEUE
from benchmarks.results import Row

SILENT_ON = "The app of the worker imports nothing but streamq. What yours imports comes on top."
PROGRAM = Path(sys.executable).with_name("streamq")


def run(bench: Bench) -> list[Row]:
    """Start both in turns."""
    helped, worked = [], []
    for turn in range(1, bench.rounds + 1):
        bench.tell(f"start, {turn} of {bench.rounds}")
        helped.append(_help(bench.folder))
        worked.append(_first_message(bench))
    return [
        Row("streamq --help", "until it ends", "s", helped, goal=0.25),
        Row("streamq worker", "until the first message is handled", "s", worked, goal=1.0),
    ]


def _help(folder: Path) -> float:
    began = time.perf_counter()
    subprocess.run([PROGRAM, "--help"], cwd=folder, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def _first_message(bench: Bench) -> float:
    snapshot, _ = bench.filled(bench.us, 1)
    with bench.arena(snapshot) as arena:
        environment = {**SETTINGS, KIND: "noop", "STREAMQ_REDIS_URL": arena.server.url}
        command = [str(PROGRAM), "worker", "--app", "benchmarks.contestants.app:app", "--queue", QUEUE]
        began = time.perf_counter()
        with arena.working(bench.us, "noop", 100, environment=environment, command=command):
            return arena.until(1).at - began
