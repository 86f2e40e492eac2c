"""The desk: one queue on each real server, and on fakeredis where that is faithful."""

import fakeredis
import pytest
import redis

from streamq.store.connection import Connections
from streamq.store.url import parse_url
from streamq.testing.fake import FakeConnections
from tests.support import SERVERS

pytest.register_assert_rewrite("tests.contract.desk", "tests.model.driver")

from tests.contract.desk import Desk  # noqa: E402 - after it is known that its assertions explain themselves

FAKE = "fakeredis"

# What fakeredis 2.40 does otherwise than every real server: these tests leave it out.
NOT_ON_THE_FAKE: dict[str, str] = {
    "test_a_stream_that_takes_no_more_refuses_only_its_own": "pcall's error has no text",
    "test_a_redis_without_memory_accepts_nothing": "memory never runs out",
    "test_a_dead_letter_is_small_when_memory_is_full": "memory never runs out",
    "test_what_drains_works_without_memory": "memory never runs out",
    "test_a_cursor_goes_on_where_the_last_call_ended": "XAUTOCLAIM looks at all that is pending",
    "test_the_doorbell_rings_when_something_arrives": "XREADGROUP does not block",
    "test_waking_a_wait_strands_nothing": "XREADGROUP does not block",
    "test_what_arrives_while_a_wait_is_woken_is_not_lost": "XREADGROUP does not block",
    "test_a_group_that_goes_while_a_wait_is_on_ends_it": "XREADGROUP does not block",
    "test_a_reader_goes_on_after_its_connection_was_cut": "XREADGROUP does not block, and there is no connection",
    "test_nothing_is_lost_or_doubled_whatever_happens": "memory never runs out, and XAUTOCLAIM looks further",
}


def pytest_generate_tests(metafunc):
    if "desk" in metafunc.fixturenames:
        faithful = metafunc.function.__name__ not in NOT_ON_THE_FAKE
        metafunc.parametrize("desk", (*SERVERS, FAKE) if faithful else SERVERS, indirect=True)


@pytest.fixture
async def desk(request, empty_server):
    """A queue with its group. At the end the law of protocol 3.3 must hold, whatever the test did."""
    if request.param == FAKE:
        connections = FakeConnections()
        client = fakeredis.FakeRedis(server=connections.server, protocol=2)
    else:
        url = empty_server(request.param).url
        connections = Connections(parse_url(url))
        client = redis.Redis.from_url(url, protocol=2)
    client.response_callbacks.clear()
    desk = Desk(connections, client.execute_command, fake=request.param == FAKE)
    await desk.store.ensure()
    yield desk
    await desk.check_law()
    desk.beats.close()
    client.close()
    await connections.aclose()
