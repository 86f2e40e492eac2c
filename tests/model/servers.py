"""Private servers whose clock stands still until a test turns it.

Time that stands still makes everything exact: ids, scores, idle times, what expires. So a run repeats to the last bit.
"""

import contextlib
import tempfile
from pathlib import Path

import redis

from tests.servers.clock import ServerClock
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
        self._clock = ServerClock(directory)
        self.turn = self._clock.turn  # from now on it is so many milliseconds
        args = _alone_in_a_cluster() if clustered else ()
        self.url = self._stack.enter_context(self._clock.server(server_binary(kind), args)).url
        if clustered:
            self._take_all_slots()
        self.turn(START)

    def close(self):
        self._stack.close()

    def _take_all_slots(self):
        with redis.Redis.from_url(self.url) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            wait_until(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))


def _alone_in_a_cluster():
    # Clients come by the socket, and no second node ever calls; but the port must be free.
    return "--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--bind", "127.0.0.1"
