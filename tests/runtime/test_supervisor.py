"""An outage is told once and waited out with growing pauses; a missing group is mended; a bug goes through."""

import asyncio
from types import SimpleNamespace

import pytest

from streamq.core.errors import ConfigError, RedisUnavailable
from streamq.core.events import RedisUnavailable as Outage
from streamq.runtime import supervisor as module
from streamq.store.outages import GroupMissing, RedisRefused
from tests.runtime.rig import soon, turns


@pytest.fixture
def pauses(monkeypatch):
    """How many failures in a row each pause was asked for; none takes time."""
    asked = []
    monkeypatch.setattr(module, "reconnect_delay", lambda failures: asked.append(failures) or 0.0)
    return asked


@pytest.fixture
def now(monkeypatch):
    """The clock of the supervisor, turned by hand."""
    hand = SimpleNamespace(seconds=10_000.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: hand.seconds))
    return hand


class Role:
    """Meets what it is given, one a run: an error to raise, a function to call, or None to return."""

    def __init__(self, *runs):
        self.runs = list(runs)

    async def __call__(self):
        await asyncio.sleep(0)
        what = self.runs.pop(0)
        if isinstance(what, BaseException):
            raise what
        return what() if callable(what) else what


def told(rig):
    return [("back" if event.back else "out", event.role, event.failures) for event in rig.events.of(Outage)]


DOWN = RedisUnavailable("down")


async def test_a_role_that_ends_is_not_run_again(rig, pauses):
    role = Role(None)
    await soon(rig.lane.supervisor.keep("fetch", role))
    assert (role.runs, pauses, told(rig)) == ([], [], [])


async def test_an_outage_is_told_once_and_its_end_too(rig, pauses, now, monkeypatch):
    """While Redis stays away, each try adds to the pause and nothing to the log."""
    ensure = Role(DOWN, DOWN, DOWN, None)
    monkeypatch.setattr(rig.lane.supervisor, "_ensure", ensure)
    await soon(rig.lane.supervisor.keep("fetch", Role(DOWN, None)))
    assert pauses == [1, 2, 3, 4]
    assert told(rig) == [("out", "fetch", 1), ("back", "fetch", 4)]


async def test_a_long_outage_is_still_one_outage(rig, pauses, now, monkeypatch):
    """Tries that fail do not count as having run well, however long they took."""

    def fail_late():
        now.seconds += 60
        raise DOWN

    monkeypatch.setattr(rig.lane.supervisor, "_ensure", Role(fail_late, fail_late, None))
    await soon(rig.lane.supervisor.keep("fetch", Role(DOWN, None)))
    assert pauses == [1, 2, 3]
    assert told(rig) == [("out", "fetch", 1), ("back", "fetch", 3)]


async def test_a_role_that_ran_well_for_long_begins_to_count_anew(rig, pauses, now):
    def run_long():
        now.seconds += 11
        raise DOWN

    await soon(rig.lane.supervisor.keep("fetch", Role(DOWN, DOWN, run_long, None)))
    assert pauses == [1, 2, 1]


async def test_who_fails_again_after_it_was_said_to_be_back_says_so(rig, pauses, now):
    """The last word in the log must not be that all is well."""
    await soon(rig.lane.supervisor.keep("fetch", Role(DOWN, DOWN, None)))
    assert [word for word, _, _ in told(rig)] == ["out", "back", "out", "back"]
    assert pauses == [1, 2]


async def test_a_missing_group_is_mended_at_once(rig, pauses):
    """There is nothing to wait for: making it again is our own business."""
    rig.raw("XGROUP", "DESTROY", rig.keys.normal, "streamq")
    groups = []

    def look():
        groups.append(rig.raw("XINFO", "GROUPS", rig.keys.normal))

    await soon(rig.lane.supervisor.keep("fetch", Role(GroupMissing("NOGROUP"), look)))
    assert pauses == []
    assert len(groups[0]) == 1


async def test_a_group_that_goes_missing_again_and_again_is_not_made_in_a_hot_loop(rig, pauses):
    missing = [GroupMissing("NOGROUP") for _ in range(3)]
    await soon(rig.lane.supervisor.keep("fetch", Role(*missing, None)))
    assert pauses == [2, 3]


@pytest.mark.parametrize("bug", [ValueError("bug"), ConfigError("another group")])
async def test_a_bug_goes_through(rig, pauses, bug):
    with pytest.raises(type(bug)):
        await soon(rig.lane.supervisor.keep("fetch", Role(bug)))
    assert told(rig) == []


async def test_what_redis_refuses_is_not_over_because_it_answers(rig, pauses, now, monkeypatch):
    """Missing rights, a key of another kind: until the role itself gets through, nothing is said to be well."""
    monkeypatch.setattr(rig.lane.supervisor, "_ensure", Role())
    refused = [RedisRefused("NOPERM") for _ in range(3)]
    await soon(rig.lane.supervisor.keep("fetch", Role(*refused, None)))
    assert pauses == [1, 2, 3]
    assert told(rig) == [("out", "fetch", 1)]


async def test_a_quiet_worker_does_not_wait_for_redis(rig, monkeypatch):
    monkeypatch.setattr(module, "reconnect_delay", lambda failures: 3600.0)
    task = asyncio.ensure_future(rig.lane.supervisor.keep("fetch", Role(DOWN)))
    await rig.events.until(Outage)
    await turns()
    assert not task.done()
    rig.lifecycle.quiet()
    await soon(task)


async def test_a_write_is_repeated_until_its_result_is_known(rig, pauses, now):
    """Each failure adds to the pause, and the outage is told once."""
    write = Role(DOWN, DOWN, DOWN, lambda: "words")
    assert await soon(rig.lane.supervisor.insist("settle", write, lambda: True)) == "words"
    assert pauses == [1, 2, 3]
    assert told(rig) == [("out", "settle", 1), ("back", "settle", 3)]


async def test_a_write_goes_on_while_the_worker_is_quiet(rig, pauses):
    """Outcomes must not be lost because it is time to end."""
    rig.lifecycle.quiet()
    assert await soon(rig.lane.supervisor.insist("settle", Role(DOWN, lambda: "words"), lambda: True)) == "words"


async def test_a_write_that_is_not_worthwhile_any_more_ends(rig, pauses):
    worth = [True, False]
    assert await soon(rig.lane.supervisor.insist("settle", Role(DOWN, DOWN), lambda: worth.pop(0))) is None
    assert (worth, pauses) == ([], [1, 2])


async def test_a_write_that_misses_the_group_makes_it(rig, pauses):
    rig.raw("XGROUP", "DESTROY", rig.keys.normal, "streamq")
    write = Role(GroupMissing("NOGROUP"), lambda: rig.raw("XINFO", "GROUPS", rig.keys.normal))
    assert len(await soon(rig.lane.supervisor.insist("settle", write, lambda: True))) == 1


async def test_a_bug_in_a_write_goes_through(rig, pauses):
    with pytest.raises(ValueError, match="bug"):
        await soon(rig.lane.supervisor.insist("settle", Role(ValueError("bug")), lambda: True))
