"""How much of its concurrency a worker uses: 10,000 handlers that wait 50 ms each, 1,000 at once.

No more than 20,000 a second are possible. The time runs from the start of the first handler, which is 50 ms before the
first one is done.
"""

from benchmarks.harness import Bench, Drained
from benchmarks.peers.common import NAP
from benchmarks.results import Row, figures

SILENT_ON = "All handlers take the same time, so they end in waves. Real ones spread, which is easier."
CHARTED = ("share of the ideal rate", "worker CPU a message")
CONCURRENCY = 1000
IDEAL = CONCURRENCY / NAP  # messages a second
PEER_SECONDS = 3.0


def run(bench: Bench) -> list[Row]:
    """Drain in turns."""
    count = bench.pick(5_000, 10_000, 10_000)
    found = bench.drains([bench.us, bench.bare, *bench.peers], "sleep", CONCURRENCY, count, PEER_SECONDS)
    return [
        *figures(found, "share of the ideal rate", "x", share_of_ideal, better="higher", goal=0.85, stretch=0.92),
        *figures(found, "worker CPU a message", "us", lambda run: run.cost.worker_us, goal=40),
        *figures(found, "server CPU a message", "us", lambda run: run.cost.server_us),
        *figures(found, "messages", "/s", lambda run: share_of_ideal(run) * IDEAL, better="higher"),
    ]


def share_of_ideal(run: Drained) -> float:
    """1 when every slot was in use all the time."""
    return run.queued / (run.seconds + NAP) / IDEAL
