"""The wall clock of a private server, in the hands of a test: it stands still until it is turned, or it goes wrong."""

import mmap
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

from streamq.testing.server import PrivateServer

SOURCE = Path(__file__).with_name("clock.c")


class ServerClock:
    """A clock that servers go by. Unless it is turned or made wrong it is the machine's.

    Args:
        folder: where the compiled shim, and the page that the servers share, lie.
    """

    def __init__(self, folder):
        self._shim, page = folder / "clock.so", folder / "clock"
        _compile(self._shim)
        page.write_bytes(bytes(16))
        with page.open("r+b") as file:
            self._page = memoryview(mmap.mmap(file.fileno(), 16)).cast("q")
        self._variables = {"LD_PRELOAD": str(self._shim), "STREAMQ_TEST_CLOCK": str(page)}

    @contextmanager
    def server(self, binary, args=()):
        """A private server that goes by this clock."""
        server = PrivateServer(binary, args=args)
        with mock.patch.dict(os.environ, self._variables):
            server.start()
        try:
            yield server
        finally:
            server.close()

    def turn(self, now):
        """From now on it is `now`, in milliseconds, and stays so."""
        self._page[0] = now * 1000

    def be_wrong_by(self, seconds):
        """Step the clock; it goes on from there."""
        self._page[1] = round(seconds * 1_000_000)


def _compile(library):
    """Make the library that a server asks for the time; skip where that cannot be done."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        refuse = pytest.fail if os.environ.get("STREAMQ_REQUIRE_SERVERS") == "1" else pytest.skip
        refuse("turning the clock of a server takes Linux and a C compiler")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, SOURCE, "-ldl"], check=True)
