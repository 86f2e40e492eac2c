"""Threads for what waits, child processes for what computes or may die: both told apart from the event loop."""

import asyncio
import contextvars
import gc
import os
import pickle
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from streamq import Reject
from streamq.core.failure import describe
from streamq.core.policy import NoChild, WorkerDied
from streamq.runtime import children
from streamq.runtime import executors as module
from streamq.runtime.child import read_error
from streamq.runtime.children import Child
from streamq.runtime.executors import Executors
from tests.runtime import child
from tests.runtime.rig import soon, turns, until
from tests.support import wait_until


@pytest.fixture
async def executors():
    made = Executors(2)
    yield made
    await made.aclose()


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
    await soon(executors.aclose())
    assert executors.busy_threads == 1
    go.set()
    await soon(run)


async def test_nothing_is_started_before_it_is_needed():
    made = Executors(2)
    await made.aclose()
    assert made._threads is None
    assert not made._idle


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
    with pytest.raises(RuntimeError, match="Awkward: awkward"):
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


async def test_what_a_handler_prints_is_no_word_of_ours(executors, tmp_path, capfd):
    """Nor what a program prints that it starts: an innocent would be taken for one that killed its process."""
    await run(executors, child.chat, f'{{"path":"{tmp_path / "out"}"}}'.encode())
    assert (tmp_path / "out").read_text() == "said"
    out, err = capfd.readouterr()
    assert (out, "RETURN 5" in err, "EXCEPTION 7" in err) == ("", True, True)


async def test_an_error_that_does_not_come_back_whole_is_told_in_words(executors):
    with pytest.raises(RuntimeError, match="OneWay: here and there"):
        await run(executors, child.fail_one_way)


async def test_an_error_that_comes_back_as_the_end_of_the_worker_is_told_in_words(executors):
    with pytest.raises(RuntimeError, match="Treacherous: mean"):
        await run(executors, child.fail_treacherously)


@pytest.mark.parametrize("sent", [SystemExit(7), KeyboardInterrupt(), asyncio.CancelledError(), "no error", ValueError])
def test_what_a_child_sends_never_ends_its_worker(sent):
    error = read_error(pickle.dumps(sent))
    assert type(error) is RuntimeError
    assert "cannot be read here" in str(error)


async def test_an_error_remembers_where_it_was_raised(executors):
    with pytest.raises(ValueError, match="broken") as raised:
        await run(executors, child.fail)
    told = describe(raised.value)
    assert (told.error, told.fingerprint) == ("ValueError: broken", "ValueError tests.runtime.child.fail")
    assert 'raise ValueError("broken")' in told.traceback


@pytest.mark.parametrize(
    ("function", "text"),
    [(child.die, "was killed by SIGKILL"), (child.leave_one_behind, "exited with code 3")],
    ids=["killed", "with a process left behind"],
)
async def test_a_death_is_told(executors, tmp_path, function, text):
    place = tmp_path / "pid"
    with pytest.raises(WorkerDied, match=text) as died:
        await run(executors, function, f'{{"path":"{place}"}}'.encode())
    assert died.value.alone
    if place.exists():
        os.kill(int(place.read_text()), signal.SIGKILL)


async def test_a_child_is_kept_for_the_next_and_then_its_death_is_not_told_of_one_alone(executors, tmp_path):
    """What earlier handlers left behind in it may be the reason."""
    pids = []
    for _ in range(2):
        await run(executors, child.write, f'{{"path":"{tmp_path / "out"}"}}'.encode())
        pids.append((tmp_path / "out").read_text().split()[1])
    assert pids[0] == pids[1]
    with pytest.raises(WorkerDied) as died:
        await run(executors, child.die)
    assert not died.value.alone


async def test_a_child_that_is_kept_keeps_nothing_of_what_it_ran(executors, tmp_path):
    """Each wait for its death that is given up stays with the process: a busy child would grow for ever."""
    payload = f'{{"path":"{tmp_path / "out"}"}}'.encode()

    def futures():
        gc.collect()
        return sum(isinstance(found, asyncio.Future) for found in gc.get_objects())

    await run(executors, child.write, payload)
    before = futures()
    for _ in range(10):
        await run(executors, child.write, payload)
    assert futures() - before < 5


async def test_one_that_must_be_alone_gets_a_child_of_its_own(executors, tmp_path):
    payload = f'{{"path":"{tmp_path / "out"}"}}'.encode()
    pids = []
    for fresh in (False, True, False):
        await soon(executors.process(child.write, payload, fresh=fresh))
        pids.append(int((tmp_path / "out").read_text().split()[1]))
    assert pids[0] == pids[2] != pids[1]
    with pytest.raises(WorkerDied) as died:
        await soon(executors.process(child.die, b"{}", fresh=True))
    assert died.value.alone


async def test_one_that_was_killed_while_it_was_idle_is_replaced(executors, tmp_path):
    payload = f'{{"path":"{tmp_path / "out"}"}}'.encode()
    await run(executors, child.write, payload)
    (kept,) = executors._idle
    os.kill(int((tmp_path / "out").read_text().split()[1]), signal.SIGKILL)
    await until(lambda: not kept.is_alive)
    await run(executors, child.write, payload)
    assert kept not in executors._idle


async def test_one_that_nobody_needs_any_more_ends(executors, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "IDLE", 0.0)
    await run(executors, child.write, f'{{"path":"{tmp_path / "out"}"}}'.encode())
    await until(lambda: not executors._idle)
    pid = int((tmp_path / "out").read_text().split()[1])
    await until(lambda: not executors._leaving)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_no_child_outlives_its_worker(executors, tmp_path):
    await run(executors, child.write, f'{{"path":"{tmp_path / "out"}"}}'.encode())
    await soon(executors.aclose())
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "out").read_text().split()[1]), 0)


@pytest.mark.parametrize(
    ("program", "text"),
    [
        (child.raises, "LookupError: there is one already"), (child.exits, "exited with code 5"),
        (child.never, "not ready within 2 s"),
    ],
    ids=["raises", "exits", "hangs"],
)  # fmt: skip
async def test_a_child_that_does_not_become_ready_says_nothing_about_a_message(monkeypatch, program, text):
    monkeypatch.setattr(children, "START_PATIENCE", 2.0)
    with pytest.raises(NoChild, match=text):
        await soon(Child.start(program))


@pytest.mark.parametrize(
    "refusal",
    [BlockingIOError(11, "Resource temporarily unavailable"), RuntimeError("can't start new thread")],
    ids=["no process", "no thread"],
)
async def test_a_machine_that_has_no_room_for_a_child_says_nothing_about_a_message(executors, monkeypatch, refusal):
    async def refuse(*_, **__):
        raise refusal

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    with pytest.raises(NoChild, match=r"unavailable|new thread"):
        await run(executors, child.write)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
async def test_a_signal_to_the_whole_group_is_not_heard_by_a_child(executors, tmp_path, number):
    place = tmp_path / "pid"
    task = asyncio.ensure_future(executors.process(child.hang, f'{{"path":"{place}"}}'.encode()))
    await asyncio.to_thread(wait_until, place.exists, 20)
    os.kill(int(place.read_text()), number)
    await soon(task)  # the handler waits for any signal, and ends by itself
