"""The app of the chaos run, as it is deployed at first. Every handler writes down what it does."""

import asyncio
import contextlib
import mmap
import os
import re
import signal
import time

from streamq import Context, Drop, Reject, Retry, Snooze, StreamQ
from tests.chaos.history import CANCELLED, FINISHED, RAISED, STARTED, note
from tests.chaos.story import QUEUES

app = StreamQ()
CHUNK, MOST_CHUNKS = 64 * 1024 * 1024, 64  # reserved and never touched: it costs nothing where there is no limit


@contextlib.contextmanager
def told(kind, key, queue):
    """Write down that a handler starts, and how it ends."""
    parent = os.getppid()
    note(STARTED, key, queue, kind, parent=parent)
    try:
        yield
    except asyncio.CancelledError:
        note(CANCELLED, key, queue, kind, parent=parent)
        raise
    except Exception as error:
        note(RAISED, key, queue, kind, type(error).__name__, parent=parent)
        if isinstance(error, Drop):  # not needed any more is one way to be done
            note(FINISHED, key, queue, kind, parent=parent)
        raise
    note(FINISHED, key, queue, kind, parent=parent)


@app.handler(QUEUES)
async def quick(key: str, ctx: Context) -> None:
    with told("quick", key, ctx.message.queue):
        pass


@app.handler(QUEUES)
async def slow(key: str, seconds: float, ctx: Context) -> None:
    with told("slow", key, ctx.message.queue):
        await asyncio.sleep(seconds)


@app.handler(QUEUES)
async def long(key: str, seconds: float, ctx: Context) -> None:
    with told("long", key, ctx.message.queue):
        await asyncio.sleep(seconds)


@app.handler(QUEUES)
def thread(key: str, seconds: float, ctx: Context) -> None:
    with told("thread", key, ctx.message.queue):
        time.sleep(seconds)


@app.handler("beta", executor="process")
def child(key: str, seconds: float) -> None:
    with told("child", key, "beta"):
        time.sleep(seconds)


@app.handler(QUEUES)
async def flaky(key: str, times: int, ctx: Context) -> None:
    with told("flaky", key, ctx.message.queue):
        if ctx.attempt <= times:
            raise OSError(f"failure {ctx.attempt} of {times}")


@app.handler(QUEUES)
async def again(key: str, ctx: Context) -> None:
    with told("again", key, ctx.message.queue):
        if ctx.attempt == 1:
            raise Retry(after=0.3, reason="the first time is for nothing")


@app.handler(QUEUES)
async def snoozing(key: str, until: float, ctx: Context) -> None:
    with told("snoozing", key, ctx.message.queue):
        if (left := until - time.time()) > 0:
            raise Snooze(after=left)


@app.handler(QUEUES)
async def later(key: str, ctx: Context) -> None:
    with told("later", key, ctx.message.queue):
        pass


@app.handler(QUEUES)
async def once(key: str, ctx: Context) -> None:
    with told("once", key, ctx.message.queue):
        pass


@app.handler(QUEUES)
async def unneeded(key: str, ctx: Context) -> None:
    with told("unneeded", key, ctx.message.queue):
        raise Drop("nobody needs it")


@app.handler(QUEUES)
async def hanging(key: str, ctx: Context) -> None:
    with told("hanging", key, ctx.message.queue):
        if ctx.attempt == 1:
            await asyncio.sleep(3600)


@app.handler(QUEUES)
async def fleeting(key: str, ctx: Context) -> None:
    with told("fleeting", key, ctx.message.queue):
        pass


@app.handler(QUEUES, max_retries=1)
async def doomed(key: str, ctx: Context) -> None:
    with told("doomed", key, ctx.message.queue):
        raise OSError("it never works")


@app.handler(QUEUES)
async def refused(key: str, ctx: Context) -> None:
    with told("refused", key, ctx.message.queue):
        raise Reject("it never will")


@app.handler(QUEUES, max_retries=1)
async def overdue(key: str, ctx: Context) -> None:
    with told("overdue", key, ctx.message.queue):
        await asyncio.sleep(3600)


@app.handler(QUEUES)
async def blocker(key: str, seconds: float, ctx: Context) -> None:
    """Stop the event loop, as code does that should have been in a thread."""
    with told("blocker", key, ctx.message.queue):
        time.sleep(seconds)  # noqa: ASYNC251 - that is the point


@app.handler(QUEUES)
async def gil(key: str, length: int, ctx: Context) -> None:
    """Stop every thread of the process: a regular expression never lets go of the interpreter."""
    with told("gil", key, ctx.message.queue):
        re.match(r"(a+)+$", "a" * length + "b")


@app.handler(QUEUES)
async def hungry(key: str, ctx: Context) -> None:
    """Take all memory that there is under the limit of this process, and hold it while others want some, too."""
    with told("hungry", key, ctx.message.queue), contextlib.ExitStack() as held:
        try:
            for _ in range(MOST_CHUNKS):
                held.enter_context(contextlib.closing(mmap.mmap(-1, CHUNK)))
        except OSError as error:
            await asyncio.sleep(0.3)
            raise MemoryError("no more") from error


@app.handler(QUEUES)
async def poison(key: str, ctx: Context) -> None:
    """Take the whole process down, as a segmentation fault does."""
    note(STARTED, key, ctx.message.queue, "poison")
    os.kill(os.getpid(), signal.SIGKILL)


@app.handler("beta", executor="process")
def poison_child(key: str) -> None:
    """Take the child process down."""
    note(STARTED, key, "beta", "poison_child")
    os.kill(os.getpid(), signal.SIGKILL)
