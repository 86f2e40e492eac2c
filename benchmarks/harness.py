"""What all scenarios share: who takes part, how much is done, runs in turns, and what servers hold at their start."""

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from benchmarks.contest import BASELINES, US, Contestant, ContestantFailed, find
from benchmarks.runs import Arena, Cost, Reading
from benchmarks.servers import Server

T = TypeVar("T")

PROBE = 200  # messages that show how fast somebody is, and the fewest of a run
BLINK = 0.05  # seconds: so long the first of them may take


class Size(StrEnum):
    """How much is done."""

    QUICK = "quick"  # to see that it runs
    USUAL = "usual"  # `make bench`: everything within five minutes
    FULL = "full"  # as much as the goals name


class Drained(NamedTuple):
    """One drain.

    Attributes:
        first: the clocks when the first message was handled.
        last: and the last.
        queued: messages that lay there.
        rss_mib: memory of the worker at the end.
    """

    first: Reading
    last: Reading
    queued: int
    rss_mib: float

    @property
    def seconds(self) -> float:
        """From the first to the last."""
        return self.last.at - self.first.at

    @property
    def cost(self) -> Cost:
        """Of the messages in between."""
        return Cost.between((self.first, self.last))


class Bench:
    """What all scenarios of one call share.

    Args:
        size: how much to do.
        rounds: of everything that is compared.
        peers: names of peers beside streamq and the baselines.
        binary: of the server; None: the Valkey of the locked set.
        folder: for what lasts as long as the call.

    Attributes:
        failed: peers that are out of the scenario, and why.
        counts: messages of a run, by who or what.
    """

    def __init__(self, size: Size, rounds: int, peers: Sequence[str], binary: str | None, folder: Path) -> None:
        self.size, self.rounds, self.binary, self.folder = size, rounds, binary, folder
        self.us, self.bare, self.redis_py = find([US, *BASELINES])
        self.failed: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        self._abouts: dict[str, dict[str, Any]] = {}
        self._snapshots: dict[tuple[str, int], tuple[Path, int]] = {}
        self.peers = [peer for peer in find(peers) if self._knows_itself(peer)]

    def pick(self, quick: T, usual: T, full: T) -> T:
        """One of three, by the size of the run."""
        return {Size.QUICK: quick, Size.USUAL: usual, Size.FULL: full}[self.size]

    def tell(self, text: str) -> None:
        """Say on stderr what goes on."""
        print(f"  {text}", file=sys.stderr, flush=True)

    def about(self, contestant: Contestant) -> dict[str, Any]:
        """What a contestant says of itself."""
        if contestant.name not in self._abouts:
            told = contestant.ask("about", folder=self.folder)
            if told is None:
                raise ContestantFailed(f"{contestant.name} says nothing about itself")
            self._abouts[contestant.name] = {**told, "baseline": contestant.ours}
        return self._abouts[contestant.name]

    def _knows_itself(self, peer: Contestant) -> bool:
        with self.failing(peer):
            self.about(peer)
        return peer.name not in self.failed

    @contextmanager
    def arena(self, snapshot: Path | None = None) -> Iterator[Arena]:
        """A fresh server and an empty folder for one run."""
        with (
            tempfile.TemporaryDirectory(prefix="run-", dir=self.folder) as folder,
            Server(self.binary, snapshot) as server,
        ):
            yield Arena(server, Path(folder))

    def filled(self, contestant: Contestant, count: int) -> tuple[Path, int]:
        """A snapshot of a server that holds at least so many messages, and how many these are.

        It is made once: every run starts from the same bytes, and slow publishers do not make the benchmark slow.
        """
        by = self.us if contestant.filled_by == US else contestant
        if (by.name, count) not in self._snapshots:
            mode = self.about(by)["publish"][-1]
            path = self.folder / f"{by.name}-{count}.rdb"
            with self.arena() as arena:
                queued = arena.publish(by, mode, count).queued
                arena.server.keep(path)
            self._snapshots[by.name, count] = path, queued
        return self._snapshots[by.name, count]

    def in_turns(
        self, contestants: Sequence[Contestant], run: Callable[[Contestant], T], what: str = ""
    ) -> dict[str, list[T]]:
        """Interleaved rounds: A B C A B C ... A peer that fails is left out from then on; what is ours must not.

        Args:
            contestants: in their order.
            run: makes one run.
            what: said on stderr.

        Returns:
            The runs of each contestant that came to the end.
        """
        found: dict[str, list[T]] = {each.name: [] for each in contestants if each.name not in self.failed}
        for turn in range(1, self.rounds + 1):
            for contestant in contestants:
                if contestant.name not in found:
                    continue
                self.tell(f"{contestant.name}{what}, {turn} of {self.rounds}")
                with self.failing(contestant):
                    found[contestant.name].append(run(contestant))
                if contestant.name in self.failed:
                    del found[contestant.name]
        return found

    @contextmanager
    def failing(self, contestant: Contestant) -> Iterator[None]:
        """Write down that a peer failed within the block, and go on. What is ours must not fail."""
        try:
            yield
        except ContestantFailed as error:
            if contestant.ours:
                raise
            self.tell(f"{contestant.name} is out: {error}")
            self.failed[contestant.name] = str(error)

    def drained(self, contestant: Contestant, kind: str, concurrency: int, count: int) -> Drained:
        """One drain of at least so many messages."""
        snapshot, queued = self.filled(contestant, count)
        with self.arena(snapshot) as arena, arena.working(contestant, kind, concurrency) as worker:
            first, last = arena.until(1), arena.until(queued)
            return Drained(first, last, queued, worker.rss_mib)

    def drains(
        self, contestants: Sequence[Contestant], kind: str, concurrency: int, most: int, seconds: float
    ) -> dict[str, list[Drained]]:
        """Drains in turns. Peers get what they handle in about so many seconds, and are out where they fail.

        Args:
            contestants: in their order.
            kind: of handler.
            concurrency: handlers at once.
            most: messages of those that are ours, and of nobody more.
            seconds: that a peer's run should take.
        """

        def rate(peer: Contestant) -> float:
            run = self.drained(peer, kind, concurrency, PROBE)
            return run.queued / (run.seconds + BLINK)

        counts = self.fitting(contestants, rate, most, seconds)
        return self.in_turns(contestants, lambda each: self.drained(each, kind, concurrency, counts[each.name]))

    def fitting(
        self,
        contestants: Sequence[Contestant],
        rate: Callable[[Contestant], float],
        most: int,
        seconds: float,
        what: str = "",
    ) -> dict[str, int]:
        """How many messages each one gets: what is ours ``most``, peers what they handle in about so many seconds.

        Args:
            contestants: any.
            rate: tries a peer with a few messages; messages a second.
            most: messages.
            seconds: that a peer's run should take.
            what: they are for, in the results.
        """
        counts = {}
        for contestant in contestants:
            counts[contestant.name] = most
            if not contestant.ours:
                self.tell(f"{contestant.name}, to see how fast it is")
                with self.failing(contestant):
                    counts[contestant.name] = int(min(most, max(PROBE, rate(contestant) * seconds)))
            self.counts[contestant.name + what] = counts[contestant.name]
        return counts
