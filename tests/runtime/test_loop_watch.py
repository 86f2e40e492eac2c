"""A loop that is blocked cannot say so: a thread does."""

import asyncio
import threading
import time

import pytest

from streamq.core.events import LoopBlocked
from streamq.runtime import loop_watch as module
from streamq.runtime.loop_watch import LoopWatch
from tests.runtime.rig import QUEUE, serving, until


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(module, "LOOK", 0.05)


def block(until):
    """What should have been in a thread."""
    assert until.wait(10)


async def test_the_task_that_blocks_the_loop_is_named_once():
    told, enough = [], threading.Event()

    def blocked(task):
        told.append(task)
        enough.set()

    with LoopWatch(blocked):
        block(enough)
        later = time.monotonic() + 0.3
        block(_at(later))
        assert told == [asyncio.current_task()]
        await until(lambda: time.monotonic() > later + 0.2)
        enough.clear()
        block(enough)
    assert len(told) == 2


async def test_a_callback_has_no_task():
    told, enough = [], threading.Event()
    with LoopWatch(lambda task: (told.append(task), enough.set())):
        asyncio.get_running_loop().call_soon(block, enough)
        await until(lambda: told)
    assert told == [None]


async def test_a_loop_that_turns_is_left_alone():
    told, end = [], time.monotonic() + 0.5
    with LoopWatch(told.append) as watch:
        await until(lambda: time.monotonic() > end)
    await until(lambda: not watch._thread.is_alive())
    assert told == []


async def test_a_handler_that_blocks_is_named(make_app):
    app, enough, told = make_app(), threading.Event(), []

    @app.handler(QUEUE)
    async def greedy():
        block(enough)

    app.observe(lambda event: isinstance(event, LoopBlocked) and (told.append(event), enough.set()))
    async with serving(app):
        receipt = await app.publish(QUEUE, {"type": "greedy"})
        await until(lambda: told)
    assert [(event.queue, event.by, event.message_id) for event in told] == [(QUEUE, "greedy", receipt.id)]


async def test_what_is_no_handler_is_named_by_its_coroutine(make_app):
    app, enough, told = make_app(), threading.Event(), []

    @app.handler(QUEUE)
    async def work(): ...

    async def reload_settings():
        block(enough)

    app.observe(lambda event: isinstance(event, LoopBlocked) and (told.append(event), enough.set()))
    async with serving(app):
        await asyncio.ensure_future(reload_settings())
    (event,) = told
    assert (event.by.endswith("reload_settings"), event.message_id) == (True, None)


def _at(moment):
    """An event that is set at a moment."""
    event = threading.Event()
    threading.Timer(max(0.0, moment - time.monotonic()), event.set).start()
    return event
