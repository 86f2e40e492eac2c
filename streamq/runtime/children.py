"""A child process, as its worker sees it."""

import asyncio
import contextlib
import socket
import subprocess
import sys

from streamq.core.failure import text_of
from streamq.core.policy import NoChild, WorkerDied
from streamq.runtime.autopsy import cause_of_death, oom_kills
from streamq.runtime.child import LENGTH, START, Program, frame, packed, read_error

START_PATIENCE = 60.0  # seconds that a child gets to import what it needs
LAST_WORDS = 1.0  # seconds between the end of a child and that of its socket, whichever comes first


class Child:
    """A process that runs what it is sent. Whoever is cancelled while it waits for it kills it.

    Attributes:
        used: it has been sent something to run.
        death: how it died.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process, self._reader, self._writer = process, reader, writer
        # One for its whole life: a wait that is cancelled stays in the list of those to be told until the child ends.
        self._end = asyncio.ensure_future(process.wait())
        self._oom_kills = oom_kills()
        self.used = False
        self.death = ""

    @classmethod
    async def start(cls, program: Program) -> "Child":
        """Start a child, and wait until its program is ready.

        Args:
            program: what it is to run; it says when it is ready.

        Raises:
            NoChild: it did not become ready.
        """
        try:
            child = await cls._spawn()
        except (OSError, RuntimeError) as error:  # no process, no descriptor; no thread that waits for its end
            raise NoChild(f"no child process could be started: {text_of(error)}") from error
        await child.become_ready(program)
        return child

    @classmethod
    async def _spawn(cls) -> "Child":
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-c", START, str(theirs.fileno()), *sys.path,
                    stdin=subprocess.DEVNULL, stdout=2, pass_fds=[theirs.fileno()],  # our stdout is for data
                )  # fmt: skip
            return cls(process, *await asyncio.open_unix_connection(sock=ours))
        except BaseException:
            ours.close()  # whoever was started sees this, and ends
            raise

    async def become_ready(self, program: Program) -> None:
        """Hand it its program, and wait until that is ready.

        Raises:
            NoChild: it did not become ready.
        """
        try:
            async with asyncio.timeout(START_PATIENCE):
                reply = await self._exchange(packed(program))
        except TimeoutError:
            raise NoChild(f"the child process was not ready within {START_PATIENCE:.0f} s") from None
        problem = self.death if reply is None else read_error(reply)
        if problem is not None:
            await self.kill()
            why = problem if isinstance(problem, str) else text_of(problem)
            raise NoChild(f"the child process did not become ready: {why}")

    @property
    def is_alive(self) -> bool:
        """Whether it can be sent more."""
        return self._process.returncode is None and not self._reader.at_eof()

    async def ask(self, job: bytes) -> None:
        """Send it a job, and wait for the end of that.

        Args:
            job: what its program understands.

        Raises:
            WorkerDied: the child died.
            whatever the job raised.
        """
        alone, self.used = not self.used, True
        reply = await self._exchange(job)
        if reply is None:
            raise WorkerDied(f"the child process that ran the handler {self.death}", alone=alone)
        error = read_error(reply)
        if error is not None:
            raise error

    async def end(self, patience: float) -> None:
        """Let it end by itself, but not for longer than so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._process.wait()
        await self.kill()

    async def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._writer.close()
        await self._process.wait()

    async def _exchange(self, job: bytes) -> bytes | None:
        """Send a frame and wait for the reply. Returns None when the child died instead; ``death`` says how."""
        answer = asyncio.ensure_future(self._converse(job))
        try:
            await asyncio.wait((answer, self._end), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():  # its last words may be on their way; what it has left behind may hold the line open
                await asyncio.wait((answer,), timeout=LAST_WORDS)
            if answer.done() and answer.exception() is None:
                return answer.result()
            await asyncio.wait((self._end,), timeout=LAST_WORDS)
            status = self._process.returncode
            self.death = "broke off" if status is None else cause_of_death(status, self._oom_kills, oom_kills())
            await self.kill()
            return None
        except asyncio.CancelledError:
            await self.kill()
            raise
        finally:
            answer.cancel()

    async def _converse(self, job: bytes) -> bytes:
        self._writer.write(frame(job))
        await self._writer.drain()
        (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
        return await self._reader.readexactly(length)
