"""What the handlers of the test app did, in a file that outlives them: a line for each start and each finish."""

import os
import time
from pathlib import Path
from typing import NamedTuple

JOURNAL = "E2E_JOURNAL"  # the variable that names the file


class Line(NamedTuple):
    """One event: S started, F finished, C was cancelled."""

    event: str
    key: str
    attempt: int
    pid: int
    at: float  # monotonic, the same clock in every process of a machine


def note(event, key, attempt=1):
    """Append a line in one write, so that lines of several processes never mix."""
    line = f"{event} {key} {attempt} {os.getpid()} {time.monotonic():.6f}\n"
    file = os.open(os.environ[JOURNAL], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def read(path=None):
    """All lines so far, the oldest first."""
    path = Path(path or os.environ[JOURNAL])
    lines = path.read_text().splitlines() if path.exists() else []
    return [Line(e, key, int(n), int(pid), float(at)) for e, key, n, pid, at in map(str.split, lines)]


def runs_of(key):
    """How often a key has been started."""
    return sum(line.event == "S" and line.key == key for line in read())
