"""To the millisecond: what begins and what ends at a moment, on a server whose clock stands still."""

import pytest
import redis

from streamq.store.connection import Connections
from streamq.store.url import parse_url
from tests.contract.desk import LEASE, SILENT, Desk, draft
from tests.model.servers import START, TurnedServer

OUTAGE, STEP_BACK, GRACE = 5000, 2000, 10_000


@pytest.fixture(scope="session")
def turned():
    server = TurnedServer("valkey-9.1")
    yield server
    server.close()


@pytest.fixture
async def still(turned):
    """A queue at START. `still.turn(ms)`: so many milliseconds later, and Redis was heard of all the while."""
    connections, client = Connections(parse_url(turned.url)), redis.Redis.from_url(turned.url, protocol=2)
    client.response_callbacks.clear()
    still = Desk(connections, client.execute_command)

    def turn(ms):
        turned.turn(START + ms)
        still.raw("HSET", still.keys.workers, "!seen", START + ms)

    still.raw("FLUSHALL")
    turned.turn(START)
    still.turn = turn
    await still.store.ensure()
    yield still
    await still.check_law()
    still.beats.close()
    client.close()
    await connections.aclose()


@pytest.mark.parametrize(("later", "silent"), [(SILENT, False), (SILENT + 1, True)])
async def test_a_worker_is_silent_after_its_time(still, later, silent):
    await still.deliver(draft("a"))
    still.beat("w1")
    still.turn(later)
    assert still.beat("w2").silent == ["w1"] * silent
    assert len((await still.reclaim("w2", silent=["w1"])).deliveries) == silent


@pytest.mark.parametrize(
    ("lease", "ahead", "grace"),
    [
        (LEASE, -OUTAGE, False), (LEASE, -OUTAGE - 1, True), (4000, -3000, False), (4000, -3001, True),
        (LEASE, STEP_BACK, False), (LEASE, STEP_BACK + 1, True),
    ],
)  # fmt: skip
async def test_an_outage_and_a_step_back_have_their_measure(still, lease, ahead, grace):
    still.raw("HSET", still.keys.workers, "!seen", START + ahead, "w1", START + 5000)
    found = await still.store.reclaim("w2", lease_ms=lease, count=1, silent_after_ms=SILENT, max_deliveries=20)
    assert found.grace == grace
    assert int(still.raw("HGET", still.keys.workers, "w1")) == START + (0 if grace and ahead > 0 else 5000)


@pytest.mark.parametrize(("later", "grace"), [(0, True), (GRACE - 1, True), (GRACE, False)])
async def test_grace_lasts_ten_seconds(still, later, grace):
    still.raw("HSET", still.keys.workers, "!grace", START + GRACE)
    still.turn(later)
    assert (await still.reclaim()).grace == grace


async def test_a_grace_that_begins_later_than_now_is_void(still):
    still.raw("HSET", still.keys.workers, "!grace", START + GRACE + 1)
    assert not (await still.reclaim()).grace


@pytest.mark.parametrize(("later", "moved"), [(4999, 0), (5000, 1)])
async def test_a_message_is_due_at_its_time(still, later, moved):
    await still.publish(draft("a", delay_ms=5000))
    still.turn(later)
    assert (await still.store.promote()).moved == moved


@pytest.mark.parametrize(("trusted", "jumped"), [(0, False), (-1, True)])
async def test_a_clock_has_jumped_that_is_ahead_of_what_is_trusted(still, trusted, jumped):
    assert (await still.store.promote(max_now_ms=START + trusted)).clock_jumped == jumped


@pytest.mark.parametrize(("due", "level"), [(START, "normal"), (START + 1, "delayed")])
async def test_what_is_due_now_does_not_wait(still, due, level):
    await still.publish(draft("a", due_ms=due))
    assert len(still.state()[level]) == 1


@pytest.mark.parametrize(("later", "answer"), [(59_999, "ALIVE"), (60_000, "OK")])
async def test_a_consumer_is_forgotten_after_its_time(still, later, answer):
    still.beat("w1")
    still.turn(later)
    assert await still.store.forget("w1", dead_after_ms=60_000) == answer


async def test_a_beat_of_this_very_moment_is_left_alone(still):
    still.raw("HSET", still.keys.workers, "!seen", START + STEP_BACK + 1, "w1", f"0{START}")
    still.beat("w2")
    assert still.raw("HGET", still.keys.workers, "w1") == b"0%d" % START
