"""Whether a message costs the same when there is more of everything.

CPU time of the workers and of the server together, as a multiple of the smallest case. Workers are warm: they have
handled a few thousand messages before. For short queues the messages come in bursts, while the worker is stopped.
Publishing does not count.
"""

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import msgspec

from benchmarks.contestants.app import QUEUES, queue_names
from benchmarks.contestants.entry import Entries
from benchmarks.harness import Bench
from benchmarks.peers.common import QUEUE, payload
from benchmarks.results import Row
from benchmarks.runs import Arena, Cost, Reading

SILENT_ON = (
    "More workers than cores take turns on them: their cost is told, not what they handle together. Rates with more "
    "processes and machines are a question of their own."
)
CHARTED = ("CPU a message, worker and server",)
PIPELINE = 500
WARM = 5_000  # messages
IN_BURSTS = 20_000  # messages that come in bursts, all together
STREAM, GROUP = f"queue:{QUEUE}", "streamq"
AT_MOST = 1.1  # times the cost of the smallest case

Case = Callable[[Bench, int], Cost]


def run(bench: Bench) -> list[Row]:
    """Each kind of growth in turns: small, large, small, large ..."""
    rounds = bench.pick(1, 1, 5)
    many = bench.pick(10_000, 20_000, 100_000)
    bench.counts["a burst"] = many
    kinds: list[tuple[str, Sequence[int], Case]] = [
        ("queued", bench.pick((1_000, 10_000), (1_000, 100_000), (1_000, 10_000, 100_000, 1_000_000)), _queued),
        ("queues", bench.pick((1, 10), (1, 10), (1, 10, 100)), lambda bench, n: _spread(bench, n, 1, many)),
        ("workers", bench.pick((1, 2), (1, 2), (1, 2, 4, 8)), lambda bench, n: _spread(bench, 1, n, many)),
        ("pending", (0, bench.pick(1_000, 10_000, 100_000)), lambda bench, n: _beside_pending(bench, n, many)),
    ]
    rows: list[Row] = []
    for name, steps, case in kinds:
        costs: dict[int, list[float]] = {step: [] for step in steps}
        for turn in range(1, rounds + 1):
            for step in steps:
                bench.tell(f"{step:,} {name}, {turn} of {rounds}")
                costs[step].append(case(bench, step).total_us)
        rows += _rows(name, costs)
    return sorted(rows, key=lambda row: row.unit != "x")


def _rows(name: str, costs: dict[int, list[float]]) -> list[Row]:
    smallest, *others = costs
    rows = [Row(f"{step:,} {name}", "CPU a message, worker and server", "us", found) for step, found in costs.items()]
    for step in others:
        grown = [large / small for large, small in zip(costs[step], costs[smallest], strict=True)]
        rows.append(Row(f"{step:,} {name} / {smallest:,}", "CPU a message", "x", grown, goal=AT_MOST))
    return rows


def _queued(bench: Bench, queued: int) -> Cost:
    """Bursts of so many; a queue that is too long for them is filled before, and its first messages are not counted."""
    if queued > IN_BURSTS:
        snapshot, total = bench.filled(bench.us, queued)
        with bench.arena(snapshot) as arena, arena.working(bench.us, "noop", 100):
            return Cost.between((arena.until(WARM), arena.until(min(total, WARM + 100_000))))
    with bench.arena() as arena, arena.working(bench.us, "noop", 100):
        _add(arena, [QUEUE], WARM)
        arena.until(WARM)
        return Cost.between(*(_burst(arena, [QUEUE], queued) for _ in range(max(1, IN_BURSTS // queued))))


def _spread(bench: Bench, queues: int, workers: int, many: int) -> Cost:
    """One burst over so many queues, for so many workers."""
    environment = {QUEUES: str(queues)}
    names = queue_names(queues)
    with bench.arena() as arena, ExitStack() as stack:
        for _ in range(workers):
            stack.enter_context(arena.working(bench.us, "noop", 100, environment=environment))
        _add(arena, names, WARM * workers)
        arena.until(WARM * workers)
        return Cost.between(_burst(arena, names, many))


def _beside_pending(bench: Bench, pending: int, many: int) -> Cost:
    """One burst beside messages that somebody else holds, and has held for less than their lease."""
    with bench.arena() as arena:
        client = arena.server.client
        if pending:
            _add(arena, [QUEUE], pending)
            client.xgroup_create(STREAM, GROUP, "0")
            client.xreadgroup(GROUP, "holder", {STREAM: ">"}, count=pending)
        with arena.working(bench.us, "noop", 100):
            _add(arena, [QUEUE], WARM)
            arena.until(WARM)
            return Cost.between(_burst(arena, [QUEUE], many))


def _burst(arena: Arena, names: Sequence[str], count: int) -> tuple[Reading, Reading]:
    """Add messages while the workers are stopped, then let them go on. Returns the clocks before and after."""
    done = arena.handled
    _signal(arena, signal.SIGSTOP)
    _add(arena, names, count)
    before = arena.read()
    _signal(arena, signal.SIGCONT)
    return before, arena.until(done + count)


def _add(arena: Arena, names: Sequence[str], count: int) -> None:
    """Add messages to queues in turn, each by a plain XADD, as any language would."""
    encoded = msgspec.json.encode(payload())
    entries = [(f"queue:{name}", Entries(name)) for name in names]
    for start in range(0, count, PIPELINE):
        pipe = arena.server.client.pipeline(transaction=False)
        for number in range(start, min(start + PIPELINE, count)):
            stream, maker = entries[number % len(entries)]
            pipe.execute_command("XADD", stream, "*", *maker.make(encoded))
        pipe.execute()


def _signal(arena: Arena, number: signal.Signals) -> None:
    """Send it to every worker, and wait until those that are to stop have."""
    for worker in arena.workers:
        worker.process.send(number)
        if number is signal.SIGSTOP:
            os.waitid(os.P_PID, worker.process.pid, os.WSTOPPED)
