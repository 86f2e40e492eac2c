"""What producers and handlers write down while it happens: one line, one write, in files that outlive every process."""

import os
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

HISTORY = "CHAOS_HISTORY"  # the variable that names the directory

# Of a producer: intent, accepted, refused, unknown. Of a handler: started, finished, raised, cancelled.
INTENT, ACCEPTED, REFUSED, UNKNOWN = "I", "A", "X", "U"
STARTED, FINISHED, RAISED, CANCELLED = "S", "F", "E", "C"
OF_PRODUCERS = frozenset({INTENT, ACCEPTED, REFUSED, UNKNOWN})
ENDED = frozenset({FINISHED, RAISED, CANCELLED})


class Event(NamedTuple):
    """One line.

    Attributes:
        at: seconds, monotonic: the same clock in every process of a machine.
        what: one of the letters above.
        key: which message; it is in its payload.
        queue: where it was sent to, or where its handler found it.
        kind: its type, or the handler that ran.
        pid: of the process that wrote.
        parent: of that process when it began: the worker, where a child ran the handler.
        note: whatever else there is to say, without blanks.
    """

    at: float
    what: str
    key: str
    queue: str
    kind: str
    pid: int
    parent: int
    note: str = "-"


def note(what, key, queue, kind, text="-", *, parent=None):
    """Append a line. Whoever returns from this has said it, whatever kills it next."""
    name = "producers" if what in OF_PRODUCERS else "handlers"
    parent = os.getppid() if parent is None else parent
    line = f"{time.monotonic():.6f} {what} {key} {queue} {kind} {os.getpid()} {parent} {text}\n"
    file = os.open(os.path.join(os.environ[HISTORY], name), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)  # noqa: PTH118
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def parse(line):
    """A line as it was written."""
    at, what, key, queue, kind, pid, parent, text = line.split(" ", 7)
    return Event(float(at), what, key, sys.intern(queue), sys.intern(kind), int(pid), int(parent), text)


def read(folder):
    """All events by key, each list in the order in which they happened."""
    events = defaultdict(list)
    for name in ("producers", "handlers"):
        path = Path(folder) / name
        if path.exists():
            with path.open() as lines:
                for line in lines:
                    event = parse(line.rstrip("\n"))
                    events[event.key].append(event)
    for told in events.values():
        told.sort()
    return dict(events)
