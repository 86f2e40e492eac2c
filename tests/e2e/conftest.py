"""Real processes against private servers. Every test that uses the rig ends with the law and a look into the logs."""

import contextlib
import subprocess
from functools import cache

import pytest

from streamq.testing.server import PrivateServer
from tests.e2e.places import SEVERAL, Serving
from tests.e2e.rig import PASSWORD, Rig, used
from tests.servers.cluster import PrivateCluster
from tests.support import server_binary


@pytest.fixture(scope="session")
def servers():
    """Servers by kind, started when first asked for, with a password that no log may show."""
    with contextlib.ExitStack() as stack:

        @cache
        def get(kind):
            if kind in SEVERAL:
                return Serving(stack.enter_context(SEVERAL[kind](password=PASSWORD, durable=False)))
            return stack.enter_context(PrivateServer(server_binary(kind), args=["--requirepass", PASSWORD]))

        yield get


@pytest.fixture(params=["valkey-9.1", "sentinel", "cluster"])
def rig(request, servers, tmp_path):
    """The tools of a test, on Valkey, in each topology; parametrised with EVERYWHERE indirectly, on each server."""
    yield from used(Rig(servers(request.param), tmp_path), request)


@pytest.fixture(params=["valkey-9.1", pytest.param("cluster", marks=pytest.mark.slow)])
def lasting(request, tmp_path):
    """The same with a server of the test's own that may be killed: it loses nothing. Behind sentinels a server that is
    away is replaced: tests/faults/test_replication.py."""
    if request.param == "cluster":
        with PrivateCluster(password=PASSWORD) as cluster:
            yield from used(Rig(Serving(cluster), tmp_path), request)
        return
    args = ["--requirepass", PASSWORD, "--appendonly", "yes", "--appendfsync", "always"]
    with PrivateServer(server_binary(request.param), args=args) as server:
        yield from used(Rig(server, tmp_path), request)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A folder with the key and the certificate of a server on this machine, which is its own authority."""
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    extensions = ["subjectAltName=IP:127.0.0.1,DNS:localhost", "keyUsage=critical,digitalSignature,keyCertSign"]
    arguments = [part for extension in extensions for part in ("-addext", extension)]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([*command.split(), *arguments, *files], check=True, capture_output=True)
    return folder
