"""How fast one worker empties a full queue: handlers that do nothing, 100 at once.

The queue was filled before, and start-up does not count: the clock runs from the first to the last handled message.
CPU time is that of the worker, with all its processes, and of the server, over the same messages.
"""

from benchmarks.harness import Bench, Drained
from benchmarks.results import Row, fastest, figures, ratio

SILENT_ON = (
    "Handlers do nothing here: as soon as one takes a millisecond, it decides and not the framework. Server and worker "
    "have a core each and no network between them; messages are all alike and of 200 bytes."
)
CHARTED = ("messages", "worker CPU a message", "server CPU a message")
CONCURRENCY = 100
PEER_SECONDS = 4.0


def run(bench: Bench) -> list[Row]:
    """Drain in turns."""
    count = bench.pick(10_000, 100_000, 200_000)
    contestants = [bench.us, bench.bare, bench.redis_py, *bench.peers]
    found = bench.drains(contestants, "noop", CONCURRENCY, count, PEER_SECONDS)
    rows = [
        ratio(found, "bare", "rate", _rate, goal=0.60, stretch=0.85),
        ratio(found, "redis_py", "rate", _rate, goal=0.75, stretch=1.0),
    ]
    peers = [peer.name for peer in bench.peers]
    pure = [peer.name for peer in bench.peers if bench.about(peer)["language"] == "Python"]
    if best := fastest(found, peers, _rate):
        rows.append(ratio(found, best, "rate, fastest peer", _rate, goal=6, stretch=8))
    if best := fastest(found, pure, _rate):
        rows.append(ratio(found, best, "rate, fastest peer in pure Python", _rate, goal=15, stretch=20))
    return [
        *rows,
        *figures(found, "messages", "/s", _rate, better="higher"),
        *figures(found, "worker CPU a message", "us", lambda run: run.cost.worker_us, goal=15, stretch=10),
        *figures(found, "server CPU a message", "us", lambda run: run.cost.server_us, goal=6, stretch=5),
        *figures(found, "worker memory after", "MiB", lambda run: run.rss_mib),
    ]


def _rate(run: Drained) -> float:
    return run.cost.rate
