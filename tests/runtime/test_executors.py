"""Threads for what waits, child processes for what computes or may die: both told apart from the event loop."""

import asyncio
import contextvars
import os
import pickle
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from streamq import Reject
from streamq.core.policy import WorkerDied
from streamq.runtime.executors import Executors
from tests.runtime import child
from tests.runtime.rig import soon, turns
from tests.support import wait_until


@pytest.fixture
def executors():
    made = Executors(2)
    yield made
    made.close()


# --- threads


async def test_a_thread_sees_what_its_handler_sees(executors):
    """Log lines get the ids of the message from a context variable."""
    seen = contextvars.ContextVar("seen", default="nothing")
    seen.set("the message")
    assert await soon(executors.thread(lambda word: (seen.get(), word), {"word": 1})) == ("the message", 1)


async def test_what_a_thread_sets_stays_there(executors):
    seen = contextvars.ContextVar("seen", default="nothing")
    await soon(executors.thread(lambda: seen.set("something"), {}))
    assert seen.get() == "nothing"


async def test_a_thread_is_not_the_event_loop(executors):
    assert await soon(executors.thread(threading.get_ident, {})) != threading.get_ident()


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()], ids=repr)
async def test_what_a_thread_raises_comes_back(executors, error):
    def fail():
        raise error

    with pytest.raises(type(error)) as raised:
        await executors.thread(fail, {})  # not in a task of its own: that would hand it to the loop
    assert raised.value is error


async def test_a_thread_that_runs_off_the_end_of_an_iterator_fails_like_any_other(executors):
    """``next`` on an empty one: asyncio cannot carry StopIteration, and the handler would never end."""
    with pytest.raises(RuntimeError, match="StopIteration"):
        await soon(executors.thread(lambda: next(iter([])), {}))
    assert executors.busy_threads == 0


async def test_busy_threads_are_counted(executors):
    go = threading.Event()
    runs = [asyncio.ensure_future(executors.thread(go.wait, {})) for _ in range(2)]
    await turns()
    assert executors.busy_threads == 2
    go.set()
    await soon(asyncio.gather(*runs))
    assert executors.busy_threads == 0


async def test_closing_does_not_wait_for_a_thread(executors):
    """It cannot be stopped, and the worker must be able to leave."""
    go = threading.Event()
    run = asyncio.ensure_future(executors.thread(go.wait, {}))
    await turns()
    executors.close()
    assert executors.busy_threads == 1
    go.set()
    await soon(run)


def test_nothing_is_started_before_it_is_needed():
    made = Executors(2)
    made.close()
    assert made._threads is None


async def test_as_many_threads_as_slots(executors):
    await soon(executors.thread(lambda: None, {}))
    assert isinstance(executors._threads, ThreadPoolExecutor)
    assert executors._threads._max_workers == 2


# --- child processes


def run(executors, function, payload=b"{}"):
    return asyncio.wait_for(executors.process(function, payload), 20)


async def test_a_function_runs_in_a_child(executors, tmp_path):
    """It decodes its arguments there: nothing but its name and the payload's bytes crosses the pipe."""
    place = tmp_path / "out"
    await run(executors, child.write, f'{{"type":"write","path":"{place}"}}'.encode())
    word, pid = place.read_text().split()
    assert word == "here"
    assert int(pid) != os.getpid()


def test_a_decorated_function_can_be_pickled():
    """It stays itself, so its name leads to it."""
    assert pickle.loads(pickle.dumps(child.write)) is child.write


async def test_what_a_child_raises_comes_back(executors):
    with pytest.raises(Reject) as raised:
        await run(executors, child.reject)
    assert raised.value.reason == "never"


async def test_an_error_that_cannot_be_carried_over_is_an_error_all_the_same(executors):
    with pytest.raises(Exception, match="pickle"):
        await run(executors, child.fail_awkwardly)


async def test_a_child_that_dies_is_told_from_one_that_fails(executors, tmp_path):
    """And the next handler gets a new one."""
    with pytest.raises(WorkerDied):
        await run(executors, child.die)
    await run(executors, child.write, f'{{"path":"{tmp_path / "out"}"}}'.encode())
    assert (tmp_path / "out").exists()


async def test_a_child_that_exits_has_failed_and_not_died(executors, tmp_path):
    """As in a thread, and the process goes on to the next handler instead of dying under it."""
    with pytest.raises(RuntimeError, match="SystemExit: 3"):
        await run(executors, child.leave)
    await run(executors, child.write, f'{{"path":"{tmp_path / "out"}"}}'.encode())
    assert (tmp_path / "out").exists()


async def test_a_ctrl_c_is_the_workers_business(executors, tmp_path):
    """The terminal signals children too, and those must be allowed to finish."""
    # A child inherits that a signal is ignored, and whoever runs these tests may have ignored this one.
    was = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        await run(executors, child.interrupt, f'{{"path":"{tmp_path / "out"}"}}'.encode())
    finally:
        signal.signal(signal.SIGINT, was)
    assert (tmp_path / "out").read_text().startswith("survived")


async def test_cancelling_kills_the_child(executors, tmp_path):
    place = tmp_path / "pid"
    task = asyncio.ensure_future(executors.process(child.hang, f'{{"path":"{place}"}}'.encode()))
    await asyncio.to_thread(wait_until, place.exists, 20)
    pid = int(place.read_text())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
