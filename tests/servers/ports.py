"""Free ports of this machine, for servers that cannot do with a unix socket."""

import socket


def free_port():
    """A port that is free now, whose Cluster bus port (10,000 above, or below) is free as well."""
    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            with socket.socket() as bus:
                try:
                    bus.bind(("127.0.0.1", bus_port(port)))
                except OSError:
                    continue
                return port


def bus_port(port):
    """Where a Cluster node whose clients come to ``port`` talks to the others."""
    return port + 10_000 if port < 50_000 else port - 10_000
