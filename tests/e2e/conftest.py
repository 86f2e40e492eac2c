"""Real processes against private servers. Every test that uses the rig ends with the law and a look into the logs."""

import pytest
import redis

from streamq.testing.server import PrivateServer
from tests.e2e.rig import PASSWORD, Rig
from tests.support import SERVERS, server_binary


@pytest.fixture(scope="session")
def servers():
    """Servers by kind, started when first asked for, with a password that no log may show."""
    running = {}

    def get(kind):
        if kind not in running:
            running[kind] = PrivateServer(server_binary(kind), args=["--requirepass", PASSWORD]).start()
        return running[kind]

    yield get
    for server in running.values():
        server.close()


@pytest.fixture(params=SERVERS[:1])
def rig(request, servers, tmp_path):
    """The tools of a test, on Valkey; parametrised with SERVERS indirectly, on the other kinds, too."""
    server = servers(request.param)
    yield from _used(Rig(server, tmp_path), request)


@pytest.fixture(params=SERVERS[:1])
def lasting(request, tmp_path):
    """The same with a server of the test's own that may be killed: it loses nothing."""
    args = ["--requirepass", PASSWORD, "--appendonly", "yes", "--appendfsync", "always"]
    with PrivateServer(server_binary(request.param), args=args) as server:
        yield from _used(Rig(server, tmp_path), request)


def _used(rig, request):
    with redis.Redis.from_url(rig.url) as client:
        client.flushall()
    try:
        yield rig
    finally:
        rig.close()
        for number, worker in enumerate(rig.workers):  # shown when the test failed
            told = [f"--- worker {number}, pid {worker.pid}, exit code {worker.code}", *worker.tail()]
            request.node.add_report_section("teardown", f"worker {number}", "\n".join(told))
    rig.check_logs()
    rig.check_law()
