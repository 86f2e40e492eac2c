"""A server whose wall clock a test can set, forward and back, while it runs."""

import os
import shutil
import struct
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from streamq.testing.server import PrivateServer

SHIM = Path(__file__).with_name("clock_shim.c")


class ServerClock:
    """How wrong the clock of a server is.

    Args:
        folder: where the compiled shim and the offset lie.
    """

    def __init__(self, folder):
        compiler = shutil.which("cc")
        if compiler is None:
            refuse = pytest.fail if os.environ.get("STREAMQ_REQUIRE_SERVERS") == "1" else pytest.skip
            refuse("there is no C compiler on this machine")
        self._shim, self._offset = folder / "clock_shim.so", folder / "offset"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", self._shim, SHIM], check=True)
        self.be_wrong_by(0)

    def be_wrong_by(self, seconds):
        """Step the clock; it goes on from there."""
        with self._offset.open("r+b" if self._offset.exists() else "wb") as file:
            file.write(struct.pack("q", round(seconds * 1000)))

    @contextmanager
    def server(self, binary, *args):
        """A private server that goes by this clock."""
        before = dict(os.environ)
        os.environ.update(LD_PRELOAD=str(self._shim), CLOCK_OFFSET=str(self._offset))
        server = PrivateServer(binary, args=args)
        try:
            server.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        try:
            yield server
        finally:
            server.close()
