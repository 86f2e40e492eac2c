"""The desk: one queue on each real server, and on fakeredis where that is faithful."""

import fakeredis
import pytest
import redis

from streamq.store.connection import Connections
from streamq.store.url import parse_url
from streamq.testing.fake import FakeConnections
from tests.contract.desk import FAKE, NOT_ON_THE_FAKE, Desk
from tests.support import SERVERS


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
    desk = Desk(connections, client.execute_command)
    try:
        await desk.store.ensure()
        yield desk
        await desk.check_law()
    finally:
        desk.beats.close()
        client.close()
        await connections.aclose()
