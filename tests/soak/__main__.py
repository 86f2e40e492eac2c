"""``python -m tests.soak``: a long and steady life with a fault now and then. Exit code 1 when something grows."""

import argparse
import random
import shutil
import signal
import sys

from tests.soak.leaky import LEAKS
from tests.soak.run import Options, run
from tests.support import SERVERS


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two faults; all kinds take turns")
    parser.add_argument("--settle", type=float, default=120.0, help="seconds that a process gets to become steady")
    parser.add_argument("--seed", default="", help="repeats the messages")
    parser.add_argument("--server", choices=SERVERS, default=SERVERS[0])
    parser.add_argument("--fsync", choices=("everysec", "always"), default="everysec", help="the server's appendfsync")
    parser.add_argument("--rate", type=float, default=80.0, help="messages a second")
    parser.add_argument("--leak", default="", help=f"plant leaks, which must be found: {','.join(LEAKS)}")
    given = vars(parser.parse_args())
    given["seed"] = given["seed"] or str(random.randrange(10**6))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    result, lines, folder = run(Options(say=lambda text: print(text, flush=True), **given))  # noqa: T201
    clean = result.clean and not any(line.grows for line in lines)
    if clean:
        shutil.rmtree(folder)
    sys.exit(0 if clean else 1)


if __name__ == "__main__":
    main()
