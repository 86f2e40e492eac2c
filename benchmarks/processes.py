"""What processes cost, as the operating system tells it. Linux: its /proc, and its clock for each process."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")
MIB = 1024 * 1024


def family(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    with suppress(OSError):  # it has just ended
        for thread in (PROC / str(pid) / "task").iterdir():
            for child in (thread / "children").read_text().split():
                yield from family(int(child))


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and of all below it, those that have ended included. To the nanosecond, unlike `stat`."""
    total = 0.0
    for each in family(pid):
        with suppress(OSError):
            total += time.clock_gettime((~each << 3) | 2)  # what clock_getcpuclockid(3) makes of a pid
            fields = (PROC / str(each) / "stat").read_text().rpartition(")")[2].split()
            total += (int(fields[13]) + int(fields[14])) / TICKS  # cutime and cstime: children that were waited for
    return total


def rss_mib(pid: int) -> float:
    """Resident memory of a process and of all below it, in MiB."""
    total = 0
    for each in family(pid):
        with suppress(OSError):
            total += int((PROC / str(each) / "statm").read_text().split()[1])
    return total * os.sysconf("SC_PAGE_SIZE") / MIB


def cpu_model() -> str:
    """The name of this machine's processor."""
    lines = (PROC / "cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
