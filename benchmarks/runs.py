"""One run: a fresh server, workers as processes of their own, a counter that every handler turns on.

Nothing is timed inside a contestant but its own publishing: the harness sees the counter move, and asks the operating
system for the CPU time of the workers and of the server at the same moments.
"""

import os
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from benchmarks.contest import Contestant, ContestantFailed, Process
from benchmarks.processes import cpu_seconds, rss_mib
from benchmarks.servers import Server

WARM_UP = 100  # messages that a publisher sends before the clock runs
POLL = 0.001  # seconds between two looks at the counter
PATIENCE = 60.0  # seconds without a handled message until a worker counts as stuck


@dataclass(frozen=True, slots=True)
class Published:
    """What a publisher says of itself.

    Attributes:
        count: messages within the time.
        seconds: they took.
        cpu_seconds: of its own.
        queued: messages that lie there now, the first ones included.
        server_us: CPU time of the server for each message, in microseconds.
    """

    count: int
    seconds: float
    cpu_seconds: float
    queued: int
    server_us: float

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.count / self.seconds

    @property
    def publisher_us(self) -> float:
        """CPU time of the publisher for each message, in microseconds."""
        return self.cpu_seconds / self.count * 1e6


class Reading(NamedTuple):
    """All clocks at one moment."""

    at: float
    handled: int
    worker_cpu: float
    server_cpu: float


class Cost(NamedTuple):
    """What the messages between two readings cost.

    Attributes:
        messages: so many.
        seconds: of the wall.
        worker_us: CPU time of the workers for each, in microseconds.
        server_us: the same of the server.
    """

    messages: int
    seconds: float
    worker_us: float
    server_us: float

    @classmethod
    def between(cls, *spans: tuple[Reading, Reading]) -> Self:
        """From one reading to the other, all spans together."""
        messages = sum(last.handled - first.handled for first, last in spans)
        if messages <= 0:
            raise ContestantFailed("everything was done at the first look: too few messages to tell")
        return cls(
            messages,
            sum(last.at - first.at for first, last in spans),
            sum(last.worker_cpu - first.worker_cpu for first, last in spans) / messages * 1e6,
            sum(last.server_cpu - first.server_cpu for first, last in spans) / messages * 1e6,
        )

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.messages / self.seconds

    @property
    def total_us(self) -> float:
        """CPU time of both for each message, in microseconds."""
        return self.worker_us + self.server_us


class Worker(NamedTuple):
    """A worker that runs, and what it has counted."""

    process: Process
    counter: int  # a file descriptor
    stamps: Path

    @property
    def handled(self) -> int:
        """Messages whose handlers came to their end."""
        cells = os.pread(self.counter, 8192, 0)
        return sum(memoryview(cells).cast("Q"))

    @property
    def rss_mib(self) -> float:
        """Its resident memory."""
        return rss_mib(self.process.pid)

    def latencies(self) -> list[float]:
        """Seconds from just before publishing to the start of the handler, for each message."""
        written = self.stamps.read_bytes()
        return [seconds for (seconds,) in struct.iter_unpack("d", written)]


class Arena:
    """One run.

    Args:
        server: a fresh one.
        folder: an empty one.
    """

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.workers: list[Worker] = []

    def publish(self, contestant: Contestant, mode: str, count: int) -> Published:
        """Let a contestant publish."""
        before = self.server.cpu_seconds
        told = contestant.ask("publish", mode, count, environment=self._environment(), folder=self.folder)
        used = (self.server.cpu_seconds - before) / (count + WARM_UP) * 1e6
        return Published(**told, server_us=used)

    def trickle(self, contestant: Contestant, count: int, rate: int) -> None:
        """Let a contestant publish so many messages a second."""
        contestant.ask("trickle", count, rate, environment=self._environment(), folder=self.folder)

    @contextmanager
    def working(
        self, contestant: Contestant, kind: str, concurrency: int, *, environment: dict[str, str] | None = None,
        command: Sequence[str] = (),
    ) -> Iterator[Worker]:  # fmt: skip
        """Run one more worker for the time of a block.

        Args:
            contestant: whose.
            kind: of handler.
            concurrency: handlers at once.
            environment: variables to add.
            command: starts it, instead of what the contestant would do.
        """
        command = command or [*contestant.command, "work", kind, str(concurrency)]
        number = len(list(self.folder.iterdir()))
        counter, stamps = self.folder / f"counter-{number}", self.folder / f"stamps-{number}"
        counter.write_bytes(bytes(8))
        stamps.touch()
        variables = {**self._environment(), "BENCH_COUNTER": str(counter), "BENCH_STAMPS": str(stamps)}
        file = os.open(counter, os.O_RDONLY)
        try:
            with contestant.working(command, {**variables, **(environment or {})}, self.folder) as process:
                self.workers.append(worker := Worker(process, file, stamps))
                yield worker
        finally:
            self.workers = [other for other in self.workers if other.counter != file]
            os.close(file)

    @property
    def handled(self) -> int:
        """Messages that all workers have handled."""
        return sum(worker.handled for worker in self.workers)

    def read(self) -> Reading:
        """Look at all clocks."""
        used = sum(cpu_seconds(worker.process.pid) for worker in self.workers)
        return Reading(time.perf_counter(), self.handled, used, self.server.cpu_seconds)

    def until(self, handled: int) -> Reading:
        """Wait until so many messages are handled, and read the clocks.

        Raises:
            ContestantFailed: a worker ended, or none was handled for a minute.
        """
        seen, deadline = -1, 0.0
        while (now := self.handled) < handled:
            if now != seen:
                seen, deadline = now, time.monotonic() + PATIENCE
            if time.monotonic() > deadline:
                told = [worker.process.told() for worker in self.workers]
                raise ContestantFailed(f"stuck at {seen} of {handled}: {' | '.join(told)}")
            for worker in self.workers:
                worker.process.check()
            time.sleep(POLL)
        return self.read()

    def _environment(self) -> dict[str, str]:
        return {"BENCH_REDIS_URL": self.server.url}
