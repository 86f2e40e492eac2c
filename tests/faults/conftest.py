"""One test a row of the catalogue of faults, on each real server. Each ends with the law of protocol 3.3."""

import pytest

from streamq.testing.server import PrivateServer
from tests.e2e.rig import PASSWORD, Rig, used
from tests.faults.house import KEEPS_ALL, house_on
from tests.support import SERVERS, server_binary


@pytest.fixture
async def house(server):
    """An app on the server that all tests share, emptied: for faults that hurt no server."""
    async with house_on(server) as house:
        yield house


@pytest.fixture(params=SERVERS)
async def own_house(request):
    """The same on a server of the test's own, to be killed, configured or filled. It keeps what it has acknowledged."""
    with PrivateServer(server_binary(request.param), args=KEEPS_ALL) as server:
        async with house_on(server) as house:
            yield house


@pytest.fixture(params=SERVERS)
def rig(request, tmp_path):
    """Real worker processes, on a server of the test's own that keeps what it has acknowledged."""
    with PrivateServer(server_binary(request.param), args=["--requirepass", PASSWORD, *KEEPS_ALL]) as server:
        yield from used(Rig(server, tmp_path), request)
