"""A master, a replica or more, and three sentinels that watch them, each a private process on a free port."""

import time

import redis

from streamq.testing.server import PrivateServer
from tests.servers.ports import free_port
from tests.servers.topology import Topology
from tests.support import wait_until

SERVICE = "streamq"
DOWN_AFTER = 1000  # ms of silence after which a sentinel calls a master dead


class PrivateSentinel(Topology):
    """A watched master with replicas.

    Args:
        replicas: how many; the others as of any topology.

    Attributes:
        url: ``redis+sentinel://…/streamq/0``.
        servers: the data servers by port.
    """

    def __init__(self, kind="valkey-9.1", *, replicas=1, args=(), durable=True, password=None):
        super().__init__(kind, args=args, durable=durable, password=password)
        self.ports = [free_port() for _ in range(1 + replicas)]
        self.sentinel_ports = [free_port() for _ in range(3)]
        self.url = f"redis+sentinel://{self._addresses(self.sentinel_ports)}/{SERVICE}/0"
        self.servers = {}

    def _start(self):
        first, *others = self.ports
        self._serve(first)
        for port in others:
            self._serve(port, "--replicaof", "127.0.0.1", str(first))
        wait_until(lambda: self.linked(first) == len(others), 20)
        for port in self.sentinel_ports:
            self._watch(port, first)
        wait_until(lambda: all(self._knows_all(port) for port in self.sentinel_ports), 20)

    def _serve(self, port, *more):
        args = ["--port", str(port), "--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0", *self._args, *more]
        self.servers[port] = self._stack.enter_context(PrivateServer(self._binary, args=args))

    def _watch(self, port, master):
        """A sentinel keeps what it learns in its configuration, so it needs a file that it may write."""
        server = PrivateServer(self._binary)
        file = server.directory / "sentinel.conf"
        lines = [
            f"port {port}", "bind 127.0.0.1", f"dir {server.directory}", "sentinel resolve-hostnames no",
            f"sentinel monitor {SERVICE} 127.0.0.1 {master} 2",
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER}",
            f"sentinel failover-timeout {SERVICE} 5000", f"sentinel parallel-syncs {SERVICE} 1",
        ]  # fmt: skip
        if self._password:
            lines.append(f"sentinel auth-pass {SERVICE} {self._password}")
        file.write_text("\n".join(lines) + "\n")
        server._command = [str(self._binary), str(file), "--sentinel", "--unixsocket", str(server._socket)]
        self._stack.enter_context(server)

    def client(self, port):
        """A client of one server, or of one sentinel, which has no password."""
        return redis.Redis(port=port, socket_timeout=2) if port in self.sentinel_ports else super().client(port)

    def linked(self, port):
        """How many replicas of a server are up to date."""
        with self.client(port) as client:
            info = client.info("replication")
        return sum(info[f"slave{n}"]["state"] == "online" for n in range(info["connected_slaves"]))

    def _knows_all(self, port):
        with self.client(port) as client:
            state = client.sentinel_master(SERVICE)
        return int(state["num-slaves"]) == len(self.ports) - 1 and int(state["num-other-sentinels"]) == 2

    def serving(self, _key):
        """The server that is the master now."""
        return self.servers[self.master()]

    def cut_off(self, replica):
        """Let a replica hear nothing of its master any more, while both are well: it may not come back."""
        with self.client(replica) as client:
            port = int(client.execute_command("ROLE")[2])
            client.config_set("masterauth", "not-the-password")
        with self.client(port) as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "replica")

    def master(self):
        """The port of the master that most sentinels name."""
        named = []
        for port in self.sentinel_ports:
            with self.client(port) as client:
                named.append(int(client.sentinel_get_master_addr_by_name(SERVICE)[1]))
        return max(set(named), key=named.count)

    def await_failover(self, old, seconds=30):
        """Wait until another than ``old`` is the master and says so itself. Returns its port."""

        def moved():
            port = self.master()
            if port == old:
                return False
            with self.client(port) as client:
                return client.info("replication")["role"] == "master"

        wait_until(moved, seconds)
        return self.master()

    def failover(self):
        """Ask for a failover while all are well, and wait until it is done. Returns the new master's port."""
        old, until = self.master(), time.monotonic() + 20
        while True:
            try:
                with self.client(self.sentinel_ports[0]) as client:
                    client.execute_command("SENTINEL", "FAILOVER", SERVICE)
                break
            except redis.ResponseError:  # one is under way, or no replica is good yet
                if time.monotonic() > until:
                    raise
                pause = time.monotonic() + 0.2
                wait_until(lambda pause=pause: time.monotonic() > pause)
        return self.await_failover(old)
