"""What was measured: rows of single runs, the goal that a row is held against, and the file that keeps them."""

import os
import platform
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from benchmarks.contest import US
from benchmarks.processes import cpu_model

T = TypeVar("T")

FOLDER = Path(__file__).parent / "results"
PACKAGES = ("streamq", "redis", "hiredis", "uvloop", "msgspec", "anyio")

Unit = Literal["/s", "us", "ms", "s", "x", "%", "MiB", "B"]
Better = Literal["higher", "lower"]


class Row(msgspec.Struct, omit_defaults=True):
    """One figure, taken several times.

    Args:
        who: a contestant, or two of them with a stroke in between: then the figures are ratios pair by pair.
        what: was measured.
        unit: of the figures; ``x`` is a ratio.
        values: every single run, in their order.
        better: which way is good.
        goal: what the median is held against.
        stretch: what would be better still.
    """

    who: str
    what: str
    unit: Unit
    values: list[float]
    better: Better = "lower"
    goal: float | None = None
    stretch: float | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What names the row within its scenario."""
        return (self.who, self.what)

    @property
    def median(self) -> float:
        """The figure that counts."""
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest run."""
        return min(self.values), max(self.values)

    @property
    def noise(self) -> float:
        """How far a run was off the median at most, as a share of it."""
        low, high = self.spread
        return max(high - self.median, self.median - low) / self.median if self.median else 0.0

    def meets(self, bound: float | None) -> bool | None:
        """Whether the median reaches a bound; None without one."""
        if bound is None:
            return None
        return self.median >= bound if self.better == "higher" else self.median <= bound

    @property
    def verdict(self) -> str:
        """``met``, ``stretch`` (that, too), ``not met``; nothing without a goal."""
        if self.goal is None:
            return ""
        return "stretch" if self.meets(self.stretch) else "met" if self.meets(self.goal) else "not met"


class Result(msgspec.Struct):
    """One scenario of one run of the benchmarks.

    Args:
        scenario: its name.
        command: repeats it.
        size: how much was done.
        machine: what it ran on.
        versions: of what took part.
        contestants: what they say about themselves, by name.
        counts: messages of a run.
        rows: the figures.
        failed: contestants that took no part to the end, and why.
    """

    scenario: str
    command: str
    size: str
    machine: dict[str, Any]
    versions: dict[str, str]
    contestants: dict[str, dict[str, Any]]
    counts: dict[str, int]
    rows: list[Row]
    failed: dict[str, str] = {}

    @property
    def with_peers(self) -> bool:
        """Whether others took part than streamq and the loops written here."""
        return any(not about.get("baseline") for about in self.contestants.values())

    def path(self, folder: Path = FOLDER) -> Path:
        """The file that keeps it."""
        return folder / f"{self.scenario}{'-peers' if self.with_peers else ''}.json"


def machine() -> dict[str, Any]:
    """What is told of this machine."""
    return {"cpu": cpu_model(), "cores": os.cpu_count(), "system": platform.system()}


def versions(server: str) -> dict[str, str]:
    """Of Python, of the packages that count, and of the server."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}, "server": server}


def figures(
    runs: Mapping[str, Sequence[T]], what: str, unit: Unit, figure: Callable[[T], float], *,
    better: Better = "lower", goal: float | None = None, stretch: float | None = None,
) -> list[Row]:  # fmt: skip
    """A row for each contestant. The goal is ours alone.

    Args:
        runs: of each contestant, by name.
        what: is measured.
        unit: of the figure.
        figure: takes it from a run.
        better: which way is good.
        goal: for streamq.
        stretch: what would be better still.
    """
    rows = [Row(name, what, unit, [figure(run) for run in several], better) for name, several in runs.items()]
    return [msgspec.structs.replace(row, goal=goal, stretch=stretch) if row.who == US else row for row in rows]


def ratio(
    runs: Mapping[str, Sequence[T]], whom: str, what: str, figure: Callable[[T], float], *,
    better: Better = "higher", goal: float | None = None, stretch: float | None = None,
) -> Row:  # fmt: skip
    """What streamq does as a multiple of what another does, pair by pair: the two ran one after the other.

    Args:
        runs: of each contestant, by name.
        whom: the other one.
        what: is measured.
        figure: takes it from a run.
        better: which way is good.
        goal: for the ratio.
        stretch: what would be better still.
    """
    values = [figure(ours) / figure(theirs) for ours, theirs in zip(runs[US], runs[whom], strict=True)]
    return Row(f"{US} / {whom}", what, "x", values, better, goal, stretch)


def fastest(runs: Mapping[str, Sequence[T]], names: Collection[str], rate: Callable[[T], float]) -> str | None:
    """Whose median rate is the highest among those named; None when none of them came to the end."""
    found = [name for name in names if name in runs]
    return max(found, key=lambda name: statistics.median(map(rate, runs[name])), default=None)


def save(result: Result, folder: Path = FOLDER) -> Path:
    """Write a result to its file."""
    folder.mkdir(exist_ok=True)
    path = result.path(folder)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    return path


def load(path: Path) -> Result:
    """Read a result.

    Raises:
        FileNotFoundError: there is none.
    """
    return msgspec.json.decode(path.read_bytes(), type=Result)


def load_all(folder: Path = FOLDER) -> dict[str, Result]:
    """Every result that is kept, by the stem of its file."""
    return {path.stem: load(path) for path in sorted(folder.glob("*.json"))}


def number(value: float) -> str:
    """A figure with as many digits as mean something."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
