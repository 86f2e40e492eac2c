"""What private servers that belong together have in common."""

from contextlib import ExitStack

import redis

from tests.support import server_binary


class Topology:
    """Several servers that know each other. Used as a context manager.

    Args:
        kind: of ``tests.support.SERVERS``.
        args: more options of every data server.
        durable: keep an append-only file, so that a killed server comes back with what it held.
        password: of every data server.
    """

    def __init__(self, kind, *, args, durable, password):
        self._binary, self._args, self._password = server_binary(kind), list(args), password
        if durable:
            self._args += ["--appendonly", "yes", "--appendfsync", "everysec"]
        if password:
            self._args += ["--requirepass", password, "--masterauth", password]
        self._stack = ExitStack()

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_):
        self._stack.close()

    def client(self, port):
        """A client of one server, which follows no redirection."""
        return redis.Redis(port=port, socket_timeout=2, password=self._password)

    def _addresses(self, ports):
        """How a URL names servers."""
        userinfo = f":{self._password}@" if self._password else ""
        return userinfo + ",".join(f"127.0.0.1:{port}" for port in ports)
