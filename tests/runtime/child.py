"""Handlers that run in a child process: importable, as those of a user must be."""

import os
import signal
import sys
from pathlib import Path

from streamq import Reject, StreamQ

app = StreamQ()
QUEUE = "orders"


@app.handler(QUEUE, executor="process")
def write(path: str, text: str = "here") -> None:
    Path(path).write_text(f"{text} {os.getpid()}")


@app.handler(QUEUE, executor="process")
def hang(path: str) -> None:
    place = Path(path)
    place.with_suffix(".new").write_text(str(os.getpid()))
    place.with_suffix(".new").replace(place)  # whoever sees it sees all of it
    signal.pause()


@app.handler(QUEUE, executor="process")
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@app.handler(QUEUE, executor="process")
def leave() -> None:
    sys.exit(3)


@app.handler(QUEUE, executor="process")
def reject() -> None:
    raise Reject("never")


@app.handler(QUEUE, executor="process")
def interrupt(path: str) -> None:
    """What a Ctrl-C does: the terminal signals the whole process group."""
    os.kill(os.getpid(), signal.SIGINT)
    Path(path).write_text(f"survived {os.getpid()}")


class Awkward(Exception):
    """An error that cannot be carried over to another process."""

    def __init__(self):
        super().__init__("awkward")
        self.hook = lambda: None


@app.handler(QUEUE, executor="process")
def fail_awkwardly() -> None:
    raise Awkward
