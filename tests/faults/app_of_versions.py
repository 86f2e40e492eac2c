"""The app of the tests with two versions: it says nothing that the previous version does not understand."""

import asyncio
import os
import time

from streamq import Context, StreamQ
from tests.e2e.journal import note, runs_of

app = StreamQ()


@app.handler("work")
async def ok(key: str, ctx: Context) -> None:
    """Finish at once."""
    note("S", key, ctx.attempt)
    note("F", key, ctx.attempt)


@app.handler("work")
async def slow(key: str, seconds: float, ctx: Context) -> None:
    """Take a while, without holding anybody up."""
    note("S", key, ctx.attempt)
    await asyncio.sleep(seconds)
    note("F", key, ctx.attempt)


@app.handler("work")
async def stuck_once(key: str, ctx: Context) -> None:
    """Take for ever the first time; finish at once when it has been started before."""
    again = runs_of(key)
    note("S", key, ctx.attempt)
    if not again:
        await asyncio.Event().wait()
    note("F", key, ctx.attempt)


@app.handler("work")
async def crash(key: str, ctx: Context) -> None:
    """Take the whole process down."""
    note("S", key, ctx.attempt)
    os._exit(9)


@app.handler("work")
async def fail_times(key: str, times: int, ctx: Context) -> None:
    """Fail so often, then finish."""
    note("S", key, ctx.attempt)
    if ctx.attempt <= times:
        raise RuntimeError(f"failure {ctx.attempt} of {times}")
    note("F", key, ctx.attempt)


@app.handler("work")
def sync_slow(key: str, seconds: float) -> None:
    """Take a while in a thread."""
    note("S", key)
    time.sleep(seconds)
    note("F", key)


@app.handler("work", executor="process")
def process_slow(key: str, seconds: float) -> None:
    """Take a while in a child process."""
    note("S", key)
    time.sleep(seconds)
    note("F", key)
