"""Private servers: one a kind and session, emptied for every test that asks for one."""

from contextlib import ExitStack
from functools import cache

import pytest
import redis

from streamq.testing.server import PrivateServer

# What asserts outside of test files explains itself, too, when this is known before it is imported.
pytest.register_assert_rewrite(
    "tests.contract.desk", "tests.e2e.rig", "tests.faults.house", "tests.model.driver", "tests.model.work"
)

from tests.support import SERVERS, server_binary  # noqa: E402


@pytest.fixture(scope="session")
def empty_server():
    """Hand out the server of a kind, emptied."""
    with ExitStack() as stack:

        @cache
        def start(kind):
            return stack.enter_context(PrivateServer(server_binary(kind)))

        def empty(kind):
            server = start(kind)
            with redis.Redis.from_url(server.url) as client:
                client.config_set("maxmemory", 0)
                client.flushall()
            return server

        yield empty


@pytest.fixture(params=SERVERS)
def server(request, empty_server):
    """Each real server in turn. A test for which one will do says so: `parametrize("server", [...], indirect=True)`."""
    return empty_server(request.param)
