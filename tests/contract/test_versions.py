"""What is written carries a version: a worker that would misread what lies there does not take part."""

from pathlib import Path

import pytest

import streamq.store
from streamq.core.errors import ConfigError
from streamq.store.scripts import NEEDS, PROTOCOL, script
from tests.contract.desk import GROUP

SCRIPTS = sorted(path.stem for path in (Path(streamq.store.__file__).parent / "lua").glob("*.lua"))


def mark(desk):
    return desk.raw("HGET", desk.keys.workers, "!needs")


async def test_the_queue_says_what_a_worker_must_speak(desk):
    assert mark(desk) == b"%d" % NEEDS


async def test_an_older_mark_is_raised(desk):
    desk.raw("HSET", desk.keys.workers, "!needs", NEEDS - 1)
    await desk.store.ensure()
    assert mark(desk) == b"%d" % NEEDS


async def test_a_mark_is_never_lowered(desk):
    """A worker that speaks what is needed, and needs less itself."""
    desk.raw("HSET", desk.keys.workers, "!needs", 8)
    assert await desk.connections.run(script("ensure"), desk.keys, [GROUP, 9, 7]) == [b"OK"]
    assert mark(desk) == b"8"


@pytest.mark.parametrize("mark_now", [PROTOCOL + 1, 10**15])
async def test_work_of_a_newer_version_is_left_alone(desk, mark_now):
    desk.raw("DEL", desk.keys.low)
    desk.raw("HSET", desk.keys.workers, "!needs", mark_now)
    with pytest.raises(
        ConfigError, match=f"needs protocol {mark_now}; this one speaks {PROTOCOL}: upgrade this worker"
    ):
        await desk.store.ensure()
    assert mark(desk) == b"%d" % mark_now
    assert desk.raw("EXISTS", desk.keys.low) == 0, "nothing was made"
    desk.raw("HDEL", desk.keys.workers, "!needs")
    await desk.store.ensure()


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_its_version_where_the_server_shows_it(name):
    assert script(name).text.splitlines()[1] == f"-- streamq {name}, protocol {PROTOCOL}"
