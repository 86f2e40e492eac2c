"""Suspects run alone: nobody starts while one runs, and it starts only when nobody runs."""

import asyncio

import pytest

from streamq.runtime.isolation import Isolation
from tests.runtime.rig import soon, turns


async def test_handlers_run_side_by_side():
    gate = Isolation()
    await soon(gate.enter())
    await soon(gate.enter())
    gate.leave()
    gate.leave()


async def test_nobody_starts_while_a_suspect_runs():
    gate = Isolation()
    async with gate.alone(None) as alone:
        assert alone
        others = [asyncio.ensure_future(gate.enter()) for _ in range(2)]
        await turns()
        assert not any(other.done() for other in others)
    await soon(asyncio.gather(*others))


async def test_a_suspect_waits_for_those_that_run_and_nobody_overtakes_it():
    """Whoever comes later waits behind the suspect: otherwise it would never be its turn."""
    gate, ran = Isolation(), []

    async def suspect():
        async with gate.alone(None) as alone:
            ran.append(("suspect", alone))

    async def latecomer():
        await gate.enter()
        ran.append("latecomer")

    await gate.enter()
    await gate.enter()
    tasks = [asyncio.ensure_future(suspect())]
    await turns()
    tasks.append(asyncio.ensure_future(latecomer()))
    gate.leave()
    await turns()
    assert ran == []
    gate.leave()
    await soon(asyncio.gather(*tasks))
    assert ran == [("suspect", True), "latecomer"]


async def test_patience_runs_out():
    """A handler that does not end keeps the suspect out, and the gate opens again."""
    gate = Isolation()
    await gate.enter()
    async with gate.alone(0.01) as alone:
        assert not alone
    await soon(gate.enter())


async def test_no_patience_is_needed_when_nobody_runs():
    async with Isolation().alone(0.0) as alone:
        assert alone


async def test_it_is_taken_while_a_suspect_waits_and_while_it_runs():
    """Whoever is next does not wait beside it."""
    gate, seen = Isolation(), []

    async def suspect():
        async with gate.alone(None):
            seen.append(gate.taken)

    await gate.enter()
    assert not gate.taken
    task = asyncio.ensure_future(suspect())
    await turns()
    assert gate.taken
    gate.leave()
    await soon(task)
    assert seen == [True]
    assert not gate.taken


@pytest.mark.parametrize("place", ["in its turn", "while it waits"])
async def test_a_suspect_that_is_cancelled_opens_the_gate(place):
    gate, begun = Isolation(), asyncio.Event()
    if place == "while it waits":
        await gate.enter()

    async def suspect():
        async with gate.alone(None):
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(suspect())
    await turns()
    assert begun.is_set() == (place == "in its turn")
    task.cancel()
    await asyncio.wait([task])
    await soon(gate.enter())


async def test_a_handler_that_is_cancelled_at_the_gate_was_never_in():
    """A suspect that comes next does not wait for it."""
    gate = Isolation()
    async with gate.alone(None):
        waiting = asyncio.ensure_future(gate.enter())
        await turns()
        waiting.cancel()
        await asyncio.wait([waiting])
    async with gate.alone(0.01) as alone:
        assert alone
