"""``python -m tests.chaos``: everything at once, at random, and a verdict. Exit code 1 when anything is off."""

import argparse
import random
import shutil
import signal
import sys

from tests.chaos.run import Options, run
from tests.support import SERVERS


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="how long faults happen; the drain comes on top")
    parser.add_argument("--seed", default="", help="repeats the faults and the messages, but not the machine's timing")
    parser.add_argument("--server", choices=SERVERS, default=SERVERS[0])
    parser.add_argument("--fsync", choices=("everysec", "always"), default="everysec", help="the server's appendfsync")
    parser.add_argument("--gap", type=float, default=2.0, help="seconds between two faults, on average")
    parser.add_argument("--rate", type=float, default=80.0, help="messages a second")
    parser.add_argument("--drain", type=float, help="seconds to finish after the last fault: 150, of the naive 20")
    parser.add_argument("--naive", action="store_true", help="a deliberately naive worker: must fail")
    parser.add_argument("--keep", action="store_true", help="keep the logs of a clean run, too")
    given = vars(parser.parse_args())
    keep, seed = given.pop("keep"), given.pop("seed") or str(random.randrange(10**6))
    given["drain"] = given["drain"] or (20.0 if given["naive"] else 150.0)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever is told to end takes its processes along
    result, folder = run(Options(seed=seed, say=lambda text: print(text, flush=True), **given))  # noqa: T201
    if result.clean and not keep:
        shutil.rmtree(folder)
    sys.exit(0 if result.clean else 1)


if __name__ == "__main__":
    main()
