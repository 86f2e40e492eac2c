"""Private servers: one a kind and session, emptied for every test that asks for one."""

from contextlib import ExitStack
from functools import cache

import pytest
import redis

from streamq.testing.server import PrivateServer
from tests.support import SERVERS, server_binary


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
