"""How long the messages of a killed worker wait for the next one.

1,000 in flight, handlers that run for an hour, kill -9, every time limit at its default.

``python -m benchmarks.crash_repair`` does this alone, and more often.
"""

import tempfile
from functools import partial
from pathlib import Path
from statistics import quantiles

from benchmarks.crash_repair import repair
from benchmarks.harness import Bench
from benchmarks.results import Row
from streamq.cli.run import run_async

SILENT_ON = "The other worker was idle and had room for all of them. 12 s of it are `silent_after`."


def run(bench: Bench) -> list[Row]:
    """Kill a few workers."""
    p50, longest = [], []
    kills = bench.pick(1, 1, 5)
    for kill in range(1, kills + 1):
        bench.tell(f"kill {kill} of {kills}")
        with bench.arena() as arena, tempfile.TemporaryDirectory(dir=bench.folder) as notes:
            found = run_async(partial(repair, arena.server.url, Path(notes)))
        p50.append(quantiles(found.seconds, n=2)[0])
        longest.append(max(found.seconds))
    return [
        Row("streamq", "p50, until a message runs again", "s", p50),
        Row("streamq", "the last one", "s", longest, goal=15),
    ]
