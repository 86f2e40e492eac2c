"""What a worker costs that has nothing to do: CPU time, and commands that reach the server, for each queue it serves.

Commands within a script are not counted: they are part of the one that called it.
"""

import time

from benchmarks.contestants.app import QUEUES
from benchmarks.harness import Bench
from benchmarks.results import Row
from benchmarks.runs import Arena

SILENT_ON = "An idle worker that serves many queues beats and waits for each of them."
SETTLED = 3.0  # seconds after the first message until a worker counts as idle


def run(bench: Bench) -> list[Row]:
    """Watch a worker of one queue, and one of ten."""
    rows: list[Row] = []
    for queues in (1, 10):
        bench.tell(f"idle, {queues} queues")
        with bench.arena() as arena:
            arena.publish(bench.us, "one", 1)
            with arena.working(bench.us, "noop", 100, environment={QUEUES: str(queues)}):
                arena.until(1)
                time.sleep(SETTLED)
                cpu, commands = _watch(arena, bench.pick(4.0, 8.0, 60.0))
        rows += [
            Row(f"streamq, {queues} queues", "CPU of the worker", "%", [cpu * 100], goal=0.5 if queues == 1 else None),
            Row(f"streamq, {queues} queues", "commands a queue", "/s", [commands / queues], goal=2.5),
        ]
    return rows


def _watch(arena: Arena, seconds: float) -> tuple[float, float]:
    """CPU seconds and commands in each second."""
    before = arena.read()
    with arena.server.client.monitor() as monitor:
        time.sleep(seconds)
        after = arena.read()
        arena.server.client.echo("the end")
        commands = 0
        for seen in monitor.listen():
            if "the end" in seen["command"]:
                break
            commands += seen["client_type"] != "lua"
    passed = after.at - before.at
    return (after.worker_cpu - before.worker_cpu) / passed, commands / passed
