"""A connection that takes commands without waiting for the replies to those before them.

redis-py opens, authenticates and secures it, and hands over its transport: from then on commands are packed and replies
read in C, straight between the transport and the futures that wait. A command costs the loop a third of what it does
through redis-py, and nobody waits for a connection of a pool (docs/performance.md has the figures). It serves what
comes with every message: fetching, publishing, settling.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import hiredis
from redis import exceptions
from redis._parsers import BaseParser

Address = tuple[str, int] | None
Open = Callable[[], Awaitable[Any]]

NOTHING = object()  # what a reader of replies gives while none is complete


def new_reader() -> hiredis.Reader:
    """A reader of replies, which gives errors of redis-py where Redis refuses."""
    return hiredis.Reader(replyError=BaseParser.parse_error, notEnoughData=NOTHING)


def address_of(connection: Any) -> Address:
    """Where a connection of redis-py leads: host and port, where it has some."""
    return (connection.host, int(connection.port)) if hasattr(connection, "port") else None


class Wire(asyncio.Protocol):
    """One open connection.

    Args:
        connection: of redis-py, connected, which is not to be used any more.
        timeout: seconds a reply may take, from its command on.

    Attributes:
        address: host and port, where it has some.
        closed: nothing goes out any more.
    """

    def __init__(self, connection: Any, timeout: float) -> None:
        self.address = address_of(connection)
        self.closed = False
        self._writer = _taken_from(connection)  # kept: a writer that is forgotten closes its transport
        self._transport = self._writer.transport
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._replies = new_reader()
        self._waiting: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._watch: asyncio.TimerHandle | None = None
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self._transport.set_protocol(self)

    def send(self, commands: Sequence[Sequence[Any]]) -> list[asyncio.Future[Any]]:
        """Send commands in one write.

        Args:
            commands: the words of each: texts, bytes and whole numbers.

        Returns:
            For each what will be its reply, an error of redis-py where Redis refuses it.

        Raises:
            ConnectionError: of redis-py: the connection is closed.
        """
        if self.closed:
            raise exceptions.ConnectionError("the connection is closed")
        packed = b"".join([hiredis.pack_command(tuple(command)) for command in commands])
        futures = [self._loop.create_future() for _ in commands]
        now = time.monotonic()
        self._waiting += [(now, future) for future in futures]
        self._transport.write(packed)
        if self._watch is None:
            self._watch = self._loop.call_later(self._timeout, self._look)
        return futures

    def close(self, why: str = "the connection was closed") -> None:
        """Close it. Whoever waits for a reply is told."""
        if not self.closed:
            self._transport.abort()
            self._end(exceptions.ConnectionError(why))

    async def aclose(self) -> None:
        """Close it, and wait until its socket is closed, too."""
        self.close()
        await self._lost

    def data_received(self, data: bytes) -> None:
        """Hand replies to those who wait for them, in their order."""
        waiting = self._waiting
        try:
            self._replies.feed(data)
            while (reply := self._replies.gets()) is not NOTHING:
                _, future = waiting.popleft()
                if future.cancelled():
                    continue
                if isinstance(reply, Exception):
                    future.set_exception(reply)
                else:
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError) as error:  # not Redis, or a reply that nobody asked for
            self.close(f"an answer that makes no sense: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side is gone, or we are."""
        if not self._lost.done():
            self._lost.set_result(None)
        self._end(exceptions.ConnectionError(f"the connection was lost: {exc or 'closed by Redis'}"))

    def _look(self) -> None:
        """One timer looks after all: it comes when the oldest reply would be late."""
        self._watch = None
        if self._waiting:
            late_at = self._waiting[0][0] + self._timeout
            if late_at <= time.monotonic():
                self._transport.abort()
                self._end(exceptions.TimeoutError(f"no reply within {self._timeout:g} s"))
            else:
                self._watch = self._loop.call_at(self._loop.time() + late_at - time.monotonic(), self._look)

    def _end(self, error: Exception) -> None:
        self.closed = True
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        while self._waiting:
            _, future = self._waiting.popleft()
            if not future.done():
                future.set_exception(error)


def _taken_from(connection: Any) -> asyncio.StreamWriter:
    """The open end of a connection, which knows of it no more: it would close it when it is forgotten."""
    writer: asyncio.StreamWriter = connection._writer  # noqa: SLF001 - redis-py has no word for this
    connection._writer = connection._reader = None  # noqa: SLF001 - likewise
    return writer


class Line:
    """Keeps a wire: opens it when there is something to send, and another after it broke.

    Args:
        connect: makes a connection of redis-py, connected.
        timeout: seconds a reply may take.
    """

    def __init__(self, connect: Open, timeout: float) -> None:
        self._connect, self._timeout = connect, timeout
        self._wire: Wire | None = None
        self._opening = asyncio.Lock()

    @property
    def address(self) -> Address:
        """Where it leads now; None when it is closed."""
        return None if self._wire is None or self._wire.closed else self._wire.address

    async def open(self) -> Wire:
        """The wire, opened if need be."""
        wire = self._wire
        if wire is not None and not wire.closed:
            return wire
        async with self._opening:
            if self._wire is None or self._wire.closed:
                self._wire = Wire(await self._connect(), self._timeout)
            return self._wire

    async def send(self, *command: Any) -> Any:
        """Send one command and wait for its reply.

        Raises:
            RedisError, OSError: of redis-py: Redis did not answer, or refused.
        """
        wire = await self.open()
        return await wire.send((command,))[0]

    def close(self) -> None:
        """Close the wire. The next command opens another."""
        if self._wire is not None:
            self._wire.close()

    async def aclose(self) -> None:
        """Close the wire, also one that is just being opened, and wait until its socket is closed, too."""
        async with self._opening:
            if self._wire is not None:
                await self._wire.aclose()
