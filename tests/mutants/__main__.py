"""Every guard of the Lua scripts removed, one at a time: `make mutants`. Exit 1 when one of them lives unexplained."""

import argparse
import random
import sys
import time
import tomllib
from multiprocessing import get_context
from pathlib import Path

from tests.mutants.mutate import mutants
from tests.mutants.trial import FILES, BrokenSuite, work

EXPLAINED = Path(__file__).with_name("equivalent.toml")


def explained():
    """Name -> why a mutant does the same as the script."""
    entries = tomllib.loads(EXPLAINED.read_text())["mutant"]
    return {(e["script"], e["source"], e["change"], e.get("nth", 1)): e["reason"] for e in entries}


def outdated(names):
    """Explanations of what is not there any more."""
    return [name for name in explained() if name not in names]


def verdicts(chosen, jobs, files):
    """(mutant, who caught it) as they come; BrokenSuite when the suite would catch everything."""
    context = get_context("spawn")
    todo, done = context.Queue(), context.Queue()
    for mutant in [*chosen, *[None] * jobs]:
        todo.put(mutant)
    workers = [context.Process(target=work, args=(todo, done, files)) for _ in range(jobs)]
    for worker in workers:
        worker.start()
    try:
        for _ in workers:
            for answer in iter(done.get, None):
                if isinstance(answer, BrokenSuite):
                    raise answer
                yield answer
    finally:
        todo.cancel_join_thread()
        for worker in workers:
            worker.terminate()
            worker.join()


def say(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments):
    options = parse(arguments)
    found = mutants()
    reasons, faults = explained(), outdated({mutant.name for mutant in found})
    chosen = [mutant for mutant in found if mutant.script in (options.only or {mutant.script})]
    if options.sample and options.sample < len(chosen):
        chosen = random.Random(options.seed).sample(chosen, options.sample)
    began, counts = time.monotonic(), dict.fromkeys(("contract suite", "model", "equivalent", "ALIVE"), 0)
    try:
        for mutant, caught in verdicts(chosen, options.jobs, options.suite):
            reason = reasons.get(mutant.name)
            verdict = caught or (f"equivalent: {reason}" if reason else "ALIVE")
            say(f"{mutant.script}:{mutant.line:<4} {mutant.source[:70]:70} {mutant.change:34} {verdict}")
            counts[next((kind for kind in counts if verdict.startswith(kind)), "contract suite")] += 1
            faults += [mutant.name] * bool(caught and reason)
    except BrokenSuite as error:
        say(f"the contract suite fails without any mutant, so it would catch everything: {error}")
        return 2
    for name in faults:
        say(f"explained, but caught or not there: {name}")
    took = time.monotonic() - began
    say(f"{len(chosen)} of {len(found)} in {took:.0f} s: " + ", ".join(f"{n} {kind}" for kind, n in counts.items()))
    return 1 if counts["ALIVE"] or faults or sum(counts.values()) < len(chosen) else 0


def parse(arguments):
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", nargs="+", help="the mutants of these scripts, like reclaim or lib/fence")
    parser.add_argument("--sample", type=int, default=0, help="so many at random instead of all")
    parser.add_argument("--seed", type=int, default=1, help="of the sample")
    parser.add_argument("--suite", nargs="+", default=FILES, help="only these files of the contract suite, like room")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
