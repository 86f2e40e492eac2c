"""A disk that loses power: what had been synced stays, of the rest a random part."""

import contextlib
import functools
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from streamq.testing.server import PrivateServer

_COMMAND = re.compile(rb"\*(\d+)\r\n")


@functools.cache
def _notes_library():
    """The library that makes a server note its fsyncs; None where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = Path(tempfile.mkdtemp(prefix="streamq-disk-")) / "disk.so"
    source = Path(__file__).with_name("disk.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def can_note():
    """Whether it can be known what the disk has."""
    return _notes_library() is not None


def forget_library():
    """Delete what was compiled."""
    if can_note():
        shutil.rmtree(_notes_library().parent)
    _notes_library.cache_clear()


class Disk:
    """A server and the disk below its append-only file.

    Attributes:
        server: started and stopped by the caller.
        confirmed: how long the file was when the last publish had been confirmed. What was confirmed lies before that.
    """

    def __init__(self, binary, policy):
        self.server = PrivateServer(self._wrapped(binary), args=[
            "--appendonly", "yes", "--appendfsync", policy, "--auto-aof-rewrite-percentage", "0",
        ])  # fmt: skip
        self.confirmed = 0

    def _wrapped(self, binary):
        self._folder = Path(tempfile.mkdtemp(prefix="streamq-disk-"))
        self._notes = self._folder / "notes"
        if not can_note():
            return binary
        wrapper = self._folder / "server"
        wrapper.write_text(
            f'#!/bin/sh\nDISK_NOTES="{self._notes}" LD_PRELOAD="{_notes_library()}" exec "{binary}" "$@"\n'
        )
        wrapper.chmod(0o700)
        return wrapper

    @property
    def file(self):
        """The file that grows; there is one as long as nothing is rewritten."""
        (file,) = (self.server.directory / "appendonlydir").glob("*.incr.aof")
        return file

    def confirm(self):
        """A publish was confirmed just now."""
        self.confirmed = self.file.stat().st_size

    def synced(self):
        """How much of the file the disk has: what a finished fsync covers. Without a compiler: what was confirmed."""
        if not can_note():
            return self.confirmed
        notes = (line.split(" ", 1) for line in self._notes.read_text().splitlines()) if self._notes.exists() else ()
        return max((int(size) for size, path in notes if path == str(self.file)), default=0)

    def cut(self, random, *, inside, worst=False, forgetful=False):
        """Lose power: the server is dead already.

        Args:
            random: chooses where.
            inside: in the middle of a transaction, where there is one.
            worst: keep no more than must be kept.
            forgetful: keep not even that, but nothing.

        Returns:
            How many bytes are gone.
        """
        size = self.file.stat().st_size
        # Of what was synced the disk may keep no more than what was confirmed: nobody was promised the rest.
        floor = min(self.synced(), self.confirmed)
        low, high = 0 if forgetful else floor, size
        middles = [place for place in transactions(self.file.read_bytes()) if low < place[1] and place[0] < high]
        if inside and middles:
            start, end = random.choice(middles)
            low, high = max(low, start + 1), min(high, end - 1)
        place = low if worst or forgetful else random.choice([low, random.randint(low, high), high])
        os.truncate(self.file, place)
        return size - place

    def close(self):
        """End the server and delete everything."""
        self.server.close()
        shutil.rmtree(self._folder)


def transactions(data):
    """Where MULTI ... EXEC stand in an append-only file: begin and end of each. What is torn at its end is none."""
    found, at, began = [], 0, None
    with contextlib.suppress(ValueError):
        while command := _COMMAND.match(data, at):
            start, at, words = at, command.end(), []
            for _ in range(int(command[1])):
                line = data.index(b"\r\n", at)
                length = int(data[at + 1 : line])
                words.append(data[line + 2 : line + 2 + length])
                at = line + 4 + length
            if words[0].upper() == b"MULTI":
                began = start
            elif words[0].upper() == b"EXEC":
                found.append((began, at))
    return found
