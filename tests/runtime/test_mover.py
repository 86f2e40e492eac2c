"""Cluster only: dead letters are moved on about once a second, page after page."""

import asyncio

from streamq.runtime import mover as module
from streamq.runtime.mover import EVERY, Mover
from tests.runtime.rig import QUEUE, soon


async def test_a_full_page_is_followed_by_the_next_at_once(rig, monkeypatch):
    """What moving does is the contract's business; here it is when."""
    moved, pauses, calls = [module.PAGE, module.PAGE, 3], [], []

    async def move(*arguments):
        calls.append(arguments)
        return moved.pop(0)

    async def pause(seconds):
        pauses.append(seconds)
        await asyncio.sleep(0)
        return not moved

    monkeypatch.setattr(module, "move", move)
    monkeypatch.setattr(rig.lifecycle, "pause", pause)
    await soon(Mover(rig.lane, rig.wire, rig.keyspace).run())
    assert pauses == [EVERY, 0.0, 0.0, EVERY]
    assert set(calls) == {(rig.wire, rig.keyspace, QUEUE)}
