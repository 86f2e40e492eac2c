"""A private server for each run, on a port of its own. What it holds can be kept and be there again in the next run."""

import shutil
import socket
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import redis

from benchmarks.processes import cpu_seconds
from streamq.testing.server import PrivateServer

PATIENCE = 120.0  # seconds: saving a million messages takes a while


class Server:
    """Saves nothing by itself and listens on this machine only. A context manager: started, and gone at the end.

    Args:
        binary: the server to run; by default the Valkey that comes with the locked set.
        snapshot: what it holds at the start, as `keep` left it.
    """

    def __init__(self, binary: str | None = None, snapshot: Path | None = None) -> None:
        port = _free_port()
        self.url = f"redis://127.0.0.1:{port}/0"
        self._process = PrivateServer(binary, args=["--port", str(port), "--bind", "127.0.0.1"])
        if snapshot is not None:
            shutil.copy(snapshot, self._process.directory / "dump.rdb")

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._process.close()

    @cached_property
    def client(self) -> Any:
        """To look at it."""
        return redis.Redis.from_url(self.url, socket_timeout=PATIENCE)

    @property
    def cpu_seconds(self) -> float:
        """CPU time it has used so far."""
        return cpu_seconds(self._process.pid)

    @property
    def memory(self) -> int:
        """Bytes that it has allocated for what it holds."""
        return int(self.client.info("memory")["used_memory"])

    @property
    def version(self) -> str:
        """Its name and version."""
        info = self.client.info("server")
        if "valkey_version" in info:
            return f"Valkey {info['valkey_version']}"
        return f"Redis {info['redis_version']}"

    def keep(self, path: Path) -> None:
        """Write what it holds to a file."""
        self.client.save()
        shutil.copy(self._process.directory / "dump.rdb", path)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
