"""Private servers whose clock stands still until a test turns it: wall time is read from a page that both map.

Time that stands still makes everything exact: ids, scores, idle times, what expires. So a run repeats to the last bit.
"""

import contextlib
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import pytest
import redis

from streamq.testing.server import PrivateServer
from tests.servers.ports import free_port
from tests.support import server_binary, wait_until

START = 1_800_000_000_000  # milliseconds: the first moment of every run


class TurnedServer:
    """A server of a kind with a clock to turn by hand.

    Args:
        kind: one of SERVERS.
        clustered: one node of a Cluster that has every slot: commands over two slots are refused there as anywhere.
    """

    def __init__(self, kind, *, clustered=False):
        self._stack = contextlib.ExitStack()
        self.clustered = clustered
        directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="streamq-clock-")))
        page = directory / "page"
        page.write_bytes(bytes(8))
        environment = {"LD_PRELOAD": str(shim(directory)), "STREAMQ_TEST_CLOCK": str(page)}
        with page.open("r+b") as file:
            self._page = memoryview(mmap.mmap(file.fileno(), 8)).cast("q")
        server = PrivateServer(server_binary(kind), args=_alone_in_a_cluster() if clustered else ())
        with mock.patch.dict(os.environ, environment):
            self.url = self._stack.enter_context(server).url
        if clustered:
            self._take_all_slots()
        self.turn(START)

    def turn(self, now):
        """From now on it is `now`, in milliseconds."""
        self._page[0] = now * 1000

    def close(self):
        self._stack.close()

    def _take_all_slots(self):
        with redis.Redis.from_url(self.url) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            wait_until(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))


def _alone_in_a_cluster():
    # Clients come by the socket, and no second node ever calls; but the port must be free.
    return "--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--bind", "127.0.0.1"


def shim(directory):
    """The library that a server asks for the time; skips where it cannot be made."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        refuse = pytest.fail if os.environ.get("STREAMQ_REQUIRE_SERVERS") == "1" else pytest.skip
        refuse("turning the clock of a server takes Linux and a C compiler")
    library = directory / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
    return library
