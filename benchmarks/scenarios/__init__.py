"""One scenario a file: `run` measures and returns rows, the docstring says what.

`SILENT_ON` says what the figures do not say, `CHARTED` which of them are drawn.
"""

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

from benchmarks.harness import Bench
from benchmarks.results import Row
from benchmarks.scenarios import (
    cold_start,
    crash_repair,
    drain,
    growth,
    idle,
    io_bound,
    latency,
    memory,
    publish,
)


class Scenario(NamedTuple):
    """What is measured.

    Attributes:
        name: on the command line, and of the file of results.
        about: what it does: a sentence, then more.
        silent_on: what its figures do not say.
        charted: what is drawn of them.
        run: measures.
    """

    name: str
    about: tuple[str, str]
    silent_on: str
    charted: tuple[str, ...]
    run: Callable[[Bench], list[Row]]


def _scenario(module: ModuleType) -> Scenario:
    name = module.__name__.rpartition(".")[2]
    summary, _, more = (module.__doc__ or "").strip().partition("\n\n")
    return Scenario(
        name, (summary, more.replace("``", "`")), module.SILENT_ON, getattr(module, "CHARTED", ()), module.run
    )


SCENARIOS = {
    scenario.name: scenario
    for scenario in map(_scenario, [drain, publish, latency, io_bound, memory, idle, growth, cold_start, crash_repair])
}
WITH_PEERS = ("drain", "publish", "latency", "io_bound")
