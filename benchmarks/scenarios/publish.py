"""How fast one process publishes: one at a time, 100 at once, and with the bulk call (1,000 messages a call).

Each message is encoded, named, signed and confirmed by the server, in streamq as in the loops written here; streamq's
server also looks for duplicates and for room.
"""

from benchmarks.contest import Contestant
from benchmarks.harness import PROBE, Bench
from benchmarks.peers.common import CONCURRENT, MANY, ONE
from benchmarks.results import Row, fastest, figures, ratio
from benchmarks.runs import Published

SILENT_ON = (
    "One publisher alone, on the machine of its server. One at a time is the time of a round trip: a network adds its "
    "own. Most peers sign nothing."
)
PEER_SECONDS = 2.0
HOW = {ONE: "one at a time", CONCURRENT: "100 at once", MANY: "in bulk"}
CHARTED = tuple(HOW.values())
GOALS = {ONE: (1.0, 1.0), CONCURRENT: (4.0, 5.0), MANY: (2.0, 3.0)}  # times the best peer: goal and stretch


def run(bench: Bench) -> list[Row]:
    """Publish in turns, one mode after the other."""
    counts = {
        ONE: bench.pick(300, 2_000, 5_000),
        CONCURRENT: bench.pick(2_000, 10_000, 50_000),
        MANY: bench.pick(5_000, 30_000, 100_000),
    }
    rows: list[Row] = []
    for mode, count in counts.items():
        rows += _mode(bench, mode, count)
    order = {"x": 0, "/s": 1, "us": 2}
    return sorted(rows, key=lambda row: order[row.unit])


def _mode(bench: Bench, mode: str, most: int) -> list[Row]:
    contestants = [
        each for each in (bench.us, bench.bare, bench.redis_py, *bench.peers) if mode in bench.about(each)["publish"]
    ]

    def publish(contestant: Contestant, count: int) -> Published:
        with bench.arena() as arena:
            return arena.publish(contestant, mode, count)

    counts = bench.fitting(contestants, lambda peer: publish(peer, PROBE).rate, most, PEER_SECONDS, f", {HOW[mode]}")
    found = bench.in_turns(contestants, lambda each: publish(each, counts[each.name]), f", {HOW[mode]}")
    how = HOW[mode]
    rows = [
        ratio(found, "bare", how, _rate, goal=0.5 if mode == MANY else None),
        ratio(found, "redis_py", how, _rate),
        *figures(found, f"{how}, publisher CPU a message", "us", lambda run: run.publisher_us),
        *figures(found, f"{how}, server CPU a message", "us", lambda run: run.server_us),
        *figures(found, how, "/s", _rate, better="higher"),
    ]
    rivals = [peer.name for peer in bench.peers if mode != ONE or CONCURRENT in bench.about(peer)["publish"]]
    if best := fastest(found, rivals, _rate):
        goal, stretch = GOALS[mode]
        title = f"{how}, best {'asyncio ' if mode == ONE else ''}peer"
        rows.insert(0, ratio(found, best, title, _rate, goal=goal, stretch=stretch))
    return rows


def _rate(run: Published) -> float:
    return run.rate
