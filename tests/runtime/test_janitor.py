"""Names of workers that are gone are forgotten, and nothing that is pending is destroyed with them."""

import pytest

from streamq.runtime import janitor as module
from streamq.runtime.janitor import Janitor
from tests.runtime.rig import OTHER, US, soon, until

LONG = 61_000


async def known(rig, *names):
    """Let the group know these consumers, which hold nothing."""
    for name in names:
        rig.fetch(name)


async def test_who_is_gone_and_holds_nothing_is_forgotten(rig):
    await known(rig, OTHER)
    rig.beaten(OTHER, LONG)
    assert await Janitor(rig.lane).sweep() == 1
    assert (rig.consumers(), rig.beats()) == (set(), set())


async def test_who_never_beat_is_forgotten_too(rig):
    """A tool that read once under a name of its own."""
    await known(rig, OTHER)
    assert await Janitor(rig.lane).sweep() == 1
    assert rig.consumers() == set()


async def test_who_still_holds_something_stays(rig):
    """Removing a consumer destroys what is pending under its name."""
    await rig.deliver("a", consumer=OTHER)
    rig.beaten(OTHER, LONG)
    assert await Janitor(rig.lane).sweep() == 0
    assert rig.pending() == {"a": (OTHER, 1)}


@pytest.mark.parametrize(("silent_after", "ms_ago"), [(12.0, 55_000), (100.0, 490_000)])
async def test_who_beat_lately_stays(make_rig, silent_after, ms_ago):
    """A minute, or five times the silence that means death."""
    rig = await make_rig(limits={"silent_after": silent_after})
    await known(rig, OTHER)
    rig.beaten(OTHER, ms_ago)
    assert await Janitor(rig.lane).sweep() == 0
    assert rig.consumers() == {OTHER}


async def test_we_stay(rig):
    """Even before our first beat."""
    await known(rig, US)
    assert await Janitor(rig.lane).sweep() == 0
    assert rig.consumers() == {US}


async def test_a_name_that_only_beat_is_forgotten(rig):
    """It never read, or its group was made anew: it would be called silent for ever."""
    rig.beaten(OTHER, LONG)
    rig.lane.silent = (OTHER,)
    assert await Janitor(rig.lane).sweep() == 1
    assert rig.beats() == set()


async def test_it_sweeps_until_the_worker_is_quiet(rig, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 0.001)
    await known(rig, OTHER)
    task = rig.background(Janitor(rig.lane).run())
    await until(lambda: not rig.consumers())
    rig.lifecycle.quiet()
    await soon(task)
