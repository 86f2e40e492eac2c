"""Measure streamq on this machine, beside loops that do the same by hand, and say what became slower.

  python -m benchmarks                            everything, within five minutes: `make bench`
  python -m benchmarks --quick                    to see that it runs; the figures mean little
  python -m benchmarks --only drain publish       some of the scenarios
  python -m benchmarks --full --save              as much as the goals name, kept in benchmarks/results
  python -m benchmarks --peers arq taskiq         other frameworks beside it (python -m benchmarks.peers install arq)
  python -m benchmarks --server redis-server      on another server than the Valkey of the locked set

Ratios and CPU time are to be trusted more than rates: the clock of a shared machine varies within minutes. Close what
else runs. It works on Linux.
"""

import argparse
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.compare import Change, compare
from benchmarks.contest import ContestantFailed
from benchmarks.harness import Bench, Size
from benchmarks.peers import environments
from benchmarks.results import Result, Row, load, machine, number, save, versions
from benchmarks.scenarios import SCENARIOS, WITH_PEERS, Scenario
from streamq.cli.output import print_table

ROUNDS = {Size.QUICK: 2, Size.USUAL: 5, Size.FULL: 5}


def main(arguments: Sequence[str]) -> int:
    """Run, show, compare, keep."""
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers and workers end with us, not after us
    size = Size.QUICK if options.quick else Size.FULL if options.full else Size.USUAL
    peers = _peers(options.peers)
    names = options.only or list(WITH_PEERS if peers else SCENARIOS)
    slower: list[Change] = []
    with tempfile.TemporaryDirectory(prefix="streamq-bench-") as folder:
        try:
            bench = Bench(size, options.rounds or ROUNDS[size], peers, options.server, Path(folder))
            for name in names:
                result = _measure(
                    bench, SCENARIOS[name], " ".join(["python -m benchmarks", *map(shlex.quote, arguments)])
                )
                show(result)
                slower += _changes(result)
                if options.save:
                    print(f"kept in {save(result)}", file=sys.stderr)
        except (ContestantFailed, LookupError) as error:
            print(error, file=sys.stderr)
            return 1
    return _tell(slower, strict=options.strict)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    much = parser.add_mutually_exclusive_group()
    much.add_argument("--quick", action="store_true", help="a tenth, in two rounds")
    much.add_argument("--full", action="store_true", help="a million messages, every step of growth: about an hour")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--peers", nargs="+", metavar="PEER", default=[], help="installed ones; `all` of them")
    parser.add_argument("--rounds", type=int, help="of everything that is compared; 5")
    parser.add_argument("--server", metavar="PROGRAM", help="a redis-server or valkey-server")
    parser.add_argument("--save", action="store_true", help="keep the results, to be committed")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when something became slower")
    options = parser.parse_args(arguments)
    if options.quick and options.save:
        parser.error("what --quick measures is not worth keeping")
    if options.server and not shutil.which(options.server):
        parser.error(f"there is no {options.server}")
    if sys.platform != "linux":
        parser.error("CPU time of other processes is read as Linux tells it")
    return options


def _peers(names: Sequence[str]) -> list[str]:
    if list(names) == ["all"]:
        return [name for name in environments.names() if environments.installed(name)]
    return list(names)


def _measure(bench: Bench, scenario: Scenario, command: str) -> Result:
    print(f"{scenario.name} ...", file=sys.stderr)
    began = time.monotonic()
    bench.failed, bench.counts = {}, {}
    rows = scenario.run(bench)
    bench.tell(f"{time.monotonic() - began:.0f} s")
    named = {name for row in rows for name in row.who.split(" / ")}
    everybody = [bench.us, bench.bare, bench.redis_py, *bench.peers]
    abouts = {each.name: bench.about(each) for each in everybody if each.name in named}
    with bench.arena() as arena:
        server = arena.server.version
    return Result(
        scenario.name, command, str(bench.size), machine(), versions(server), abouts, bench.counts, rows, bench.failed
    )


def show(result: Result) -> None:
    """Print the rows of a scenario."""
    table = [_cells(row) for row in result.rows]
    print_table(table, list(table[0]), title=result.scenario)
    for name, why in result.failed.items():
        print(f"{name} took no part to the end: {why}")


def _cells(row: Row) -> dict[str, object]:
    low, high = row.spread
    sign = ">=" if row.better == "higher" else "<="
    return {
        "who": row.who,
        "what": row.what,
        "median": number(row.median),
        "unit": row.unit,
        "spread": f"{number(low)}..{number(high)}" if len(row.values) > 1 else "",
        "goal": "" if row.goal is None else f"{sign} {number(row.goal)}",
        "verdict": row.verdict,
    }


def _changes(result: Result) -> list[Change]:
    """Beside the committed result, where there is one."""
    try:
        return compare(load(result.path()), result)
    except FileNotFoundError:
        print(f"{result.scenario}: there is no committed result to compare with", file=sys.stderr)
        return []


def _tell(changes: Sequence[Change], *, strict: bool) -> int:
    """Name what moved by more than the noise. Returns the exit code."""
    for change in sorted(changes, key=lambda change: -change.worse):
        row, word = change.row, "slower" if change.worse > 0 else "faster"
        print(
            f"{word}: {change.scenario}, {row.who}, {row.what}: {number(change.before)} -> {number(row.median)} "
            f"{row.unit} ({abs(change.worse):.0%})"
        )
    slower = any(change.worse > 0 for change in changes)
    if not slower:
        print("nothing became slower by more than the noise")
    return 1 if strict and slower else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
