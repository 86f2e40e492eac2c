"""Handlers that run in a child process: importable, as those of a user must be."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from streamq import Reject, StreamQ
from streamq.runtime.alone import run_one

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


class OneWay(Exception):
    """An error that can be written down but not read again."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


@app.handler(QUEUE, executor="process")
def fail_one_way() -> None:
    raise OneWay("here", "there")


class Treacherous(Exception):
    """An error that comes back as something that ends whoever raises it."""

    def __reduce__(self):
        return SystemExit, (7,)


@app.handler(QUEUE, executor="process")
def fail_treacherously() -> None:
    raise Treacherous("mean")


@app.handler(QUEUE, executor="process")
def fail() -> None:
    raise ValueError("broken")


@app.handler(QUEUE, executor="process")
def chat(path: str) -> None:
    """Print, and start a program that prints: a worker's data and our own talk with it stay what they are."""
    print("RETURN 5")  # noqa: T201
    subprocess.run(["echo", "EXCEPTION 7"], check=True)
    Path(path).write_text("said")


@app.handler(QUEUE, executor="process")
def leave_one_behind(path: str) -> None:
    """Die, and leave a process behind that holds whatever was open."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        while True:
            signal.pause()
    Path(path).write_text(str(pid))
    os._exit(3)


# --- the app once more, for one message

suspects = StreamQ()


def sign(path: str) -> None:
    Path(path).write_text(str(os.getpid()))


@suspects.handler(QUEUE)
async def work(path: str, dies: bool = False) -> None:
    if dies:
        os._exit(9)
    sign(path)


@suspects.handler(QUEUE)
def hold_thread(path: str) -> None:
    hang(path)


@suspects.handler(QUEUE, isolate="worker")
async def here(path: str) -> None:
    sign(path)


def serve(channel) -> None:
    plan = SimpleNamespace(
        registry=suspects.registry, keys=None, rules=None, middleware=(), lifespan=None, publish=None,
        suspects=None, logger_for=lambda message: None,
    )  # fmt: skip
    asyncio.run(run_one(plan, channel))


def serve_another_app(channel) -> None:
    """What lies on the disk has changed since the worker started."""
    suspects.registry = StreamQ().registry
    serve(channel)


# --- programs that do not become ready


def raises(channel) -> None:
    raise LookupError("there is one already")


def exits(channel) -> None:
    os._exit(5)


def never(channel) -> None:
    signal.pause()
