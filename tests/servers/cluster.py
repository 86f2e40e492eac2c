"""A Cluster of three masters, with replicas when wanted, each a private process on a free port."""

import redis
from redis.crc import key_slot

from streamq.testing.server import PrivateServer
from tests.servers.ports import bus_port, free_port
from tests.servers.topology import Topology
from tests.support import wait_until

NODE_TIMEOUT = 1500  # ms of silence after which a node is suspected
RANGES = ((0, 5460), (5461, 10922), (10923, 16383))


class PrivateCluster(Topology):
    """Three masters and their replicas.

    Args:
        replicas: of each master; the others as of any topology.

    Attributes:
        url: ``redis+cluster://…``, naming all masters.
        nodes: the servers by port; the first three are the masters at the beginning.
    """

    def __init__(self, kind="valkey-9.1", *, replicas=0, args=(), durable=True, password=None):
        super().__init__(kind, args=args, durable=durable, password=password)
        self._replicas = replicas
        self.ports = [free_port() for _ in range(3 * (1 + replicas))]
        self.url = f"redis+cluster://{self._addresses(self.ports[:3])}"
        self.nodes = {}

    def _start(self):
        for port in self.ports:
            args = [
                "--port", str(port), "--bind", "127.0.0.1", "--cluster-enabled", "yes",
                "--cluster-port", str(bus_port(port)), "--cluster-announce-ip", "127.0.0.1",
                "--cluster-node-timeout", str(NODE_TIMEOUT), "--cluster-replica-validity-factor", "0",
                "--repl-diskless-sync-delay", "0", *self._args,
            ]  # fmt: skip
            self.nodes[port] = self._stack.enter_context(PrivateServer(self._binary, args=args))
        masters, others = self.ports[:3], self.ports[3:]
        for epoch, port in enumerate(self.ports, 1):
            with self.client(port) as client:
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", epoch)
                if port in masters:
                    client.execute_command("CLUSTER", "ADDSLOTSRANGE", *RANGES[masters.index(port)])
        with self.client(masters[0]) as client:
            for port in self.ports[1:]:
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", port, bus_port(port))
        wait_until(lambda: all(self._sees(port) == len(self.ports) for port in self.ports), 30)
        for number, port in enumerate(others):
            with self.client(port) as client:
                client.execute_command("CLUSTER", "REPLICATE", self.id_of(masters[number % 3]))
        wait_until(lambda: all(self.is_well(port) for port in self.ports), 30)
        wait_until(lambda: all(self._linked(port) for port in masters), 30)

    def id_of(self, port):
        """What a node is called inside the Cluster."""
        with self.client(port) as client:
            return client.execute_command("CLUSTER", "MYID").decode()

    def is_well(self, port):
        """Whether a node says that all slots are served."""
        with self.client(port) as client:
            return b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO")

    def _sees(self, port):
        with self.client(port) as client:
            info = client.execute_command("CLUSTER", "INFO").decode()
        return next(int(line.partition(":")[2]) for line in info.splitlines() if line.startswith("cluster_known_nodes"))

    def _linked(self, port):
        with self.client(port) as client:
            info = client.info("replication")
        states = [info[f"slave{n}"]["state"] for n in range(info["connected_slaves"])]
        return states == ["online"] * self._replicas

    def master_of(self, key, *, ask=None):
        """The port of the master that serves a key's slot now, as the node ``ask`` (or any that answers) sees it."""
        slot = key_slot(key.encode() if isinstance(key, str) else key)
        for port in [ask] if ask else self.ports:
            try:
                with self.client(port) as client:
                    ranges = client.execute_command("CLUSTER", "SLOTS")
            except redis.RedisError:
                continue
            for first, last, (_, owner, *_), *_ in ranges:
                if first <= slot <= last:
                    return owner
        raise LookupError(f"nobody serves slot {slot}")

    def serving(self, key):
        """The server that has a key's slot now."""
        return self.nodes[self.master_of(key)]

    def migrate(self, key, target, *, step=None):
        """Move a key's slot, with all that lies in it, to another master, live.

        Args:
            key: any key of the slot.
            target: port of the new owner.
            step: called between two keys, when things are half moved.
        """
        slot = key_slot(key.encode())
        source = self.master_of(key)
        with self.client(source) as old, self.client(target) as new:
            new.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
            old.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(target))
            while keys := old.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1):
                auth = ["AUTH", self._password] if self._password else []
                old.execute_command("MIGRATE", "127.0.0.1", target, "", 0, 5000, *auth, "KEYS", *keys)
                if step:
                    step()
            for port in (target, source, *self.ports):
                with self.client(port) as client:
                    if client.info("replication")["role"] == "master":
                        client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", self.id_of(target))
