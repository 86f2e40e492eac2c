"""``python -m tests.powerloss``: the power goes, again and again. What was confirmed as durable must be there.

A private server, publishers that wait for the disk and others that do not, a worker that settles, retries, rejects and
promotes. Then kill -9, and its append-only file loses a random part of what no finished fsync covers. Exit code 1 when
a confirmed message is lost, when the books do not balance, or when nothing was at risk.
"""

import argparse
import asyncio
import random
import signal
import sys

from streamq import logs
from tests.powerloss.cycle import Tally, cycle
from tests.powerloss.disk import can_note, forget_library
from tests.support import server_binary

# With everysec, Valkey's WAITAOF is not true: streamq does not take it for an answer (streamq/store/durability.py).
ROWS = (("valkey-9.1", "always", {}), ("redis-8.2", "everysec", {}))
PROOFS = (
    ("redis-8.2", "everysec", {"forgetful": True}),  # a disk that loses what it had confirmed
    ("valkey-9.1", "everysec", {"believe": True}),  # a server that confirms what the disk does not have
)
FEW = 5  # cycles of a server in which nothing need have been at risk
HEAD = ("server", "cycles", "confirmed", "unconfirmed", "unconfirmed lost", "confirmed lost", "law broken", "KiB cut")
COLUMNS = "{:<30} {:>7} {:>10} {:>12} {:>17} {:>15} {:>11} {:>8}"


async def row(kind, policy, how, cycles, seed):
    """All cycles of one server."""
    total = Tally()
    for number in range(cycles):
        total.add(await cycle(server_binary(kind), policy, random.Random(f"{seed} {kind} {policy} {number}"), **how))
    return total


async def main():
    """Returns whether all is as it must be."""
    parser = argparse.ArgumentParser(prog="python -m tests.powerloss", description=__doc__)
    parser.add_argument("--cycles", type=int, default=100, help="power losses, shared by the servers")
    parser.add_argument("--seed", default=None, help="repeats what is chosen, but not the machine's timing")
    parser.add_argument("--prove", action="store_true", help="lose what was confirmed: the checker must see it")
    given = parser.parse_args()
    seed = given.seed or str(random.randrange(10**6))
    logs.configure("critical")
    rows = PROOFS if given.prove else ROWS
    if given.prove and not can_note():
        rows = rows[:1]  # without a compiler nobody knows what the disk has
    cycles = -(-given.cycles // len(rows))
    totals = await asyncio.gather(*(row(*each, cycles, seed) for each in rows))
    report(rows, totals, seed)
    if given.prove:
        return all(total.confirmed_lost for total in totals)
    at_risk = cycles < FEW or any(total.unconfirmed_lost for total in totals)
    return at_risk and all(total.confirmed and not (total.confirmed_lost or total.wrong) for total in totals)


def report(rows, totals, seed):
    """The table."""
    lines = [COLUMNS.format(*HEAD)]
    for (kind, policy, how), total in zip(rows, totals, strict=True):
        lost = (total.unconfirmed_lost, total.confirmed_lost, len(total.wrong), total.cut_bytes // 1024)
        name = " ".join((kind, policy, *how))
        lines.append(COLUMNS.format(name, total.cycles, total.confirmed, total.unconfirmed, *lost))
        lines += (f"  {text}" for text in total.wrong[:10])
    floor = "what a finished fdatasync covers" if can_note() else "the size at the last confirmation (no C compiler)"
    lines.append(f"the disk keeps at least {floor}; seed {seed}")
    print(*lines, sep="\n")  # noqa: T201


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever is told to end takes its servers along
    try:
        good = asyncio.run(main())
    finally:
        forget_library()
    sys.exit(0 if good else 1)
