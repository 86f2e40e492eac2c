"""Where a worker stands, and how its roles hear that it is time to end."""

import asyncio

import pytest

from streamq.runtime.lifecycle import Lifecycle, State
from tests.runtime.rig import soon, turns


def test_it_passes_through_its_states_in_order():
    life = Lifecycle()
    assert life.state is State.STARTING
    life.started()
    assert life.state is State.RUNNING
    life.quiet()
    assert (life.state, life.is_quiet) == (State.QUIET, True)


def test_quiet_cannot_be_taken_back():
    """A worker that is told to stop while it starts does not begin to run."""
    life = Lifecycle()
    life.quiet()
    life.started()
    assert (life.state, life.is_quiet) == (State.QUIET, True)


def test_the_first_bug_is_the_one_that_is_told():
    """Those that follow are its consequences."""
    life, first = Lifecycle(), ValueError("first")
    life.fail(first)
    life.fail(ValueError("second"))
    assert life.failure is first


async def test_a_bug_hurries_the_end():
    life = Lifecycle()
    life.fail(ValueError("bug"))
    await soon(life.until_quiet())
    await soon(life.until_hurry())


async def test_quiet_alone_does_not_hurry():
    life = Lifecycle()
    life.quiet()
    hurry = asyncio.ensure_future(life.until_hurry())
    await turns()
    assert not hurry.done()
    life.hurry()
    await soon(hurry)


async def test_a_pause_ends_at_once_when_it_is_time_to_be_quiet():
    life = Lifecycle()
    pause = asyncio.ensure_future(life.pause(3600))
    await turns()
    assert not pause.done()
    life.quiet()
    assert await soon(pause)
    assert await soon(life.pause(3600))


async def test_a_pause_ends_early_for_a_waker():
    life, waker = Lifecycle(), asyncio.Event()
    pause = asyncio.ensure_future(life.pause(3600, waker))
    await turns()
    waker.set()
    assert not await soon(pause)
    assert not await soon(life.pause(3600, waker))


async def test_a_pause_that_was_slept_through_says_that_life_goes_on():
    assert not await soon(Lifecycle().pause(0.001))


@pytest.mark.parametrize("seconds", [0.0, -1.0])
async def test_no_pause_is_none(seconds):
    assert not await soon(Lifecycle().pause(seconds))


@pytest.mark.parametrize("how", ["slept through", "woken", "cancelled"])
async def test_a_pause_leaves_no_task_behind(how):
    life, waker = Lifecycle(), asyncio.Event()
    pause = asyncio.ensure_future(life.pause(0.001 if how == "slept through" else 3600, waker))
    await turns()
    if how == "woken":
        waker.set()
    elif how == "cancelled":
        pause.cancel()
    await asyncio.wait([pause])
    await turns()
    assert asyncio.all_tasks() == {asyncio.current_task()}
