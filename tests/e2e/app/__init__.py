"""The app of the end-to-end tests: every handler writes down when it starts and when it finishes."""

import asyncio
import os
import resource
import signal
import time
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

from streamq import Context, Drop, Reject, Retry, Snooze, StreamQ
from tests.e2e import journal
from tests.e2e.journal import note, runs_of

app = StreamQ()
QUEUES = ["work", "other", "third"]
wrapped = ContextVar("wrapped", default=False)  # whether the middleware is around this handler
GATES = "E2E_GATES"  # the variable that names the directory where the test opens a gate by making a file


@app.lifespan
async def lifespan() -> AsyncIterator[str]:
    """What a handler finds in every process of the app."""
    yield "state of the lifespan"


@app.middleware
async def around(_: Context, call_next: Any) -> Any:
    """Leave a sign."""
    wrapped.set(True)
    return await call_next()


async def until_open(gate: str) -> None:
    """Return when the test has opened a gate."""
    file = os.path.join(os.environ[GATES], gate)  # noqa: PTH118 - as cheap as can be, many handlers do it often
    while not os.path.exists(file):  # noqa: ASYNC110, ASYNC240, PTH110 - the event is in another process
        await asyncio.sleep(0.02)


@app.handler(QUEUES)
async def ok(key: str, ctx: Context) -> None:
    """Finish at once."""
    note("S", key, ctx.attempt)
    note("F", key, ctx.attempt)


@app.handler(QUEUES)
async def slow(key: str, seconds: float, ctx: Context) -> None:
    """Take a while, without holding anybody up."""
    note("S", key, ctx.attempt)
    await asyncio.sleep(seconds)
    note("F", key, ctx.attempt)


@app.handler(QUEUES)
async def gated(key: str, ctx: Context, gate: str = "gate", fails: bool = False) -> None:
    """Run until the test says so: then finish, or fail."""
    note("S", key, ctx.attempt)
    try:
        await until_open(gate)
    except asyncio.CancelledError:
        note("C", key, ctx.attempt)
        raise
    if fails:
        raise RuntimeError("the gate is open")
    note("F", key, ctx.attempt)


@app.handler(QUEUES)
async def stuck_once(key: str, ctx: Context, gate: str = "gate", fails: bool = False) -> None:
    """Wait for the gate the first time; finish at once when it has been started before."""
    if runs_of(key):
        note("S", key, ctx.attempt)
        note("F", key, ctx.attempt)
    else:
        await gated(key, ctx, gate, fails)


@app.handler(QUEUES)
async def block_loop(key: str, seconds: float, ctx: Context) -> None:
    """Stop the event loop, as code does that should have been in a thread."""
    await asyncio.sleep(0.3)  # by now the worker waits for the next message
    note("S", key, ctx.attempt)
    time.sleep(seconds)  # noqa: ASYNC251 - that is the point
    note("F", key, ctx.attempt)


@app.handler(QUEUES)
async def crash(key: str, ctx: Context) -> None:
    """Take the whole worker down."""
    note("S", key, ctx.attempt)
    os._exit(9)


@app.handler(QUEUES)
async def fail_times(key: str, times: int, note: str, ctx: Context) -> None:
    """Fail so often, then finish. The payload's note is a local variable, which no log may show."""
    journal.note("S", key, ctx.attempt)
    if ctx.attempt <= times:
        raise RuntimeError(f"failure {ctx.attempt} of {times}")
    journal.note("F", key, ctx.attempt)


@app.handler(QUEUES)
async def stubborn(key: str, seconds: float, ctx: Context) -> None:
    """Do not let a cancellation through."""
    note("S", key, ctx.attempt)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            await asyncio.sleep(end - time.monotonic())
        except asyncio.CancelledError:
            note("C", key, ctx.attempt)
    note("F", key, ctx.attempt)


@app.handler(QUEUES)
async def typed(key: str, count: int, ctx: Context, tags: list[str] | None = None) -> None:
    """Want arguments of certain types."""
    note("S", key, ctx.attempt)
    note("F", key, ctx.attempt)


@app.handler(QUEUES)
def sync_slow(key: str, seconds: float) -> None:
    """Take a while in a thread."""
    note("S", key)
    time.sleep(seconds)
    note("F", key)


@app.handler(QUEUES)
def sync_stuck_once(key: str, gate: str = "gate") -> None:
    """Hold a thread until the test says so, but only the first time."""
    again = runs_of(key)
    note("S", key)
    if not again:
        asyncio.run(until_open(gate))
    note("F", key)


@app.handler(QUEUES, executor="process")
def process_slow(key: str, seconds: float) -> None:
    """Take a while in a child process."""
    note("S", key)
    time.sleep(seconds)
    note("F", key)


@app.handler(QUEUES, executor="process")
def process_crash(key: str) -> None:
    """Take the child process down."""
    note("S", key)
    os._exit(9)


def die(how: str) -> None:
    """Take this process down."""
    if how == "exit":
        os._exit(9)
    os.kill(os.getpid(), signal.Signals[how])


@app.handler(QUEUES)
async def dies(key: str, how: str, ctx: Context) -> None:
    """Take the process down in which it runs; one of its own is good enough."""
    note("S", key, ctx.attempt)
    die(how)


@app.handler(QUEUES, isolate="worker")
async def dies_here(key: str, how: str, ctx: Context) -> None:
    """The same, but it will not run in a process of its own."""
    note("S", key, ctx.attempt)
    die(how)


@app.handler(QUEUES, isolate="worker")
async def gated_here(key: str, ctx: Context, gate: str = "gate") -> None:
    """Run in the worker until the test says so."""
    await gated(key, ctx, gate)


@app.handler(QUEUES)
def sync_gated(key: str, ctx: Context, gate: str = "gate") -> None:
    """Hold a thread, which nothing can stop but the end of its process, until the test says so."""
    note("S", key, ctx.attempt)
    asyncio.run(until_open(gate))
    note("F", key, ctx.attempt)


@app.handler(QUEUES)
async def looks_around(key: str, ctx: Context) -> None:
    """Use whatever the app gives its handlers: state, middleware, publishing, logging."""
    note("S", key, ctx.attempt)
    ctx.log.info("looking around", state=ctx.state, middleware=wrapped.get())
    print("a line on stdout")  # noqa: T201 - what a child prints is not data of the worker's
    await ctx.publish("other", {"type": "ok", "key": f"from-{key}"})
    note("F", key, ctx.attempt)


@app.handler(QUEUES)
async def eats_memory(key: str) -> None:
    """Want more than it may have."""
    note("S", key)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    bytearray(1 << 32)


@app.handler(QUEUES)
async def says(key: str, word: str, ctx: Context) -> None:
    """Decide about its own fate."""
    note("S", key, ctx.attempt)
    words = {"Retry": Retry(after=0.1), "Snooze": Snooze(after=3600), "Reject": Reject("no"), "Drop": Drop("no")}
    raise words[word] if word in words else RuntimeError(word)
