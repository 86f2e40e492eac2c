"""How long a message is on its way while there is little to do: 100 messages a second.

From just before publishing to the first line of the handler. Publisher and worker are two processes, both warm. The
percentiles are those of each run.
"""

from statistics import quantiles
from typing import NamedTuple

from benchmarks.contest import Contestant
from benchmarks.harness import Bench
from benchmarks.peers.common import ONE
from benchmarks.results import Row, figures, ratio
from benchmarks.runs import WARM_UP

SILENT_ON = (
    "Most of it is three processes waking one another up, so it says as much about the machine as about the framework. "
    "Under load a message waits for those before it; nothing here measures that."
)
CHARTED = ("p50", "p99")
RATE = 100  # messages a second


class Percentiles(NamedTuple):
    """Of one run, in milliseconds."""

    p50: float
    p99: float


def run(bench: Bench) -> list[Row]:
    """Trickle in turns."""
    count = bench.pick(100, 300, 2_000)
    contestants = [bench.us, bench.bare, *bench.peers]
    bench.counts["each"] = count
    found = bench.in_turns(contestants, lambda contestant: _trickle(bench, contestant, count))
    return [
        ratio(found, "bare", "p50", lambda run: run.p50, better="lower", goal=1.4, stretch=1.2),
        ratio(found, "bare", "p99", lambda run: run.p99, better="lower", goal=1.5, stretch=1.2),
        *figures(found, "p50", "ms", lambda run: run.p50),
        *figures(found, "p99", "ms", lambda run: run.p99),
    ]


def _trickle(bench: Bench, contestant: Contestant, count: int) -> Percentiles:
    with bench.arena() as arena, arena.working(contestant, "stamp", 100) as worker:
        before = arena.publish(contestant, ONE, WARM_UP).queued
        arena.until(before)
        arena.trickle(contestant, count, RATE)
        arena.until(before + count)
        cuts = quantiles([seconds * 1000 for seconds in worker.latencies()[before:]], n=100)
        return Percentiles(cuts[49], cuts[98])
