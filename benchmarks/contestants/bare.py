"""The bare loop: what Redis and CPython cannot avoid, and nothing else. A yardstick, not a worker to ship.

A raw asyncio Protocol on hiredis. It reads 500 entries at a time, and the next batch is on the wire while this one
runs; verifies each signature, decodes the payload, runs each handler in a task, and acknowledges with one XACK and one
XDEL in a turn of the loop. It has no leases, retries, time limits, dead letters, counters or clean end.
"""

import asyncio
import signal
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast
from urllib.parse import urlsplit

import hiredis
import msgspec

from benchmarks.contestants.entry import Entries
from benchmarks.peers import common

STREAM, GROUP = f"queue:{common.QUEUE}".encode(), b"streamq"
BATCH = 500
CHUNK = 128  # tasks begun in a turn: uvloop writes at its end, and the next read should leave before the batch has run
pack = cast("Callable[[tuple[bytes, ...]], bytes]", hiredis.pack_command)  # its stub knows tuples of one alone
READ = pack(
    (b"XREADGROUP", b"GROUP", GROUP, b"bare", b"COUNT", b"%d" % BATCH, b"BLOCK", b"2000", b"STREAMS", STREAM, b">")
)

Handler = Callable[[Mapping[str, Any]], Awaitable[None]]


class Connection(asyncio.Protocol):
    """Hands every reply to a function, in the order of the commands."""

    transport: asyncio.Transport

    def __init__(self, receive: Callable[[Any], object]) -> None:
        self._receive, self._reader = receive, hiredis.Reader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        """Take what came, and hand on what is complete."""
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if isinstance(reply, hiredis.ReplyError):
                raise reply
            self._receive(reply)


async def connect(receive: Callable[[Any], object]) -> asyncio.Transport:
    """Open a connection to the server of this run."""
    place = urlsplit(common.redis_url())
    assert place.hostname is not None
    assert place.port is not None
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(receive), place.hostname, place.port)
    return connection.transport


class Worker:
    """Reads, runs, acknowledges.

    Args:
        handler: gets the decoded payload.
        limit: handlers that run at once.
    """

    reader: asyncio.Transport
    writer: asyncio.Transport

    def __init__(self, handler: Handler, limit: int) -> None:
        self._handler, self._free = handler, limit
        self._room = max(limit, BATCH)  # entries that may wait here while the next ones are asked for
        self._entries, self._decode = Entries(common.QUEUE), msgspec.json.Decoder().decode
        self._waiting: deque[tuple[bytes, list[bytes]]] = deque()
        self._done: list[bytes] = []
        self._reading = self._flushing = False
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Work until SIGTERM."""
        stop = asyncio.Event()
        self._loop.add_signal_handler(signal.SIGTERM, stop.set)
        self.reader = await connect(self._received)
        self.writer = await connect(lambda _: None)
        self._read()
        await stop.wait()

    def _read(self) -> None:
        self._reading = True
        self.reader.write(READ)

    def _received(self, reply: Any) -> None:
        self._reading = False
        if reply is not None:
            self._waiting.extend(reply[0][1])
        self._pump()

    def _pump(self) -> None:
        """Begin what there is room for, and ask for more before it is needed."""
        waiting, create_task = self._waiting, self._loop.create_task
        if not self._reading and len(waiting) <= self._room:
            self._read()
        begun = min(self._free, len(waiting), CHUNK)
        self._free -= begun
        for _ in range(begun):
            entry_id, fields = waiting.popleft()
            create_task(self._run(entry_id, self._decode(self._entries.payload(fields))))
        if begun == CHUNK:
            self._loop.call_soon(self._pump)

    async def _run(self, entry_id: bytes, payload: Mapping[str, Any]) -> None:
        await self._handler(payload)
        self._done.append(entry_id)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Acknowledge what was done in this turn."""
        done, self._done = self._done, []
        self._flushing = False
        self._free += len(done)
        self.writer.write(pack((b"XACK", STREAM, GROUP, *done)) + pack((b"XDEL", STREAM, *done)))
        self._pump()


def work(kind: str, concurrency: int) -> None:
    """Run one worker."""

    async def main() -> None:
        made = asyncio.get_running_loop().create_future()
        setup = await connect(made.set_result)
        setup.write(pack((b"XGROUP", b"CREATE", STREAM, GROUP, b"0", b"MKSTREAM")))
        await made
        await Worker(common.handler(kind), concurrency).run()

    common.run(main())


@asynccontextmanager
async def publisher() -> AsyncIterator[common.Sender]:
    """One XADD a message. What is published in one turn of the loop leaves in one write."""
    entries, encode = Entries(common.QUEUE), msgspec.json.Encoder().encode
    waiting: deque[asyncio.Future[None]] = deque()
    create_future = asyncio.get_running_loop().create_future
    transport = await connect(lambda _: waiting.popleft().set_result(None))

    def command(payload: common.Payload) -> bytes:
        return pack((b"XADD", STREAM, b"*", *entries.make(encode(payload))))

    async def one(payload: common.Payload) -> None:
        waiting.append(added := create_future())
        transport.write(command(payload))
        await added

    async def many(payloads: list[common.Payload]) -> None:
        last = create_future()
        waiting.extend([create_future() for _ in payloads[1:]])
        waiting.append(last)
        transport.write(b"".join(map(command, payloads)))
        await last

    yield common.Sender(one, many)
    transport.close()


PEER = common.Peer(
    name="bare",
    packages=("hiredis", "msgspec", "uvloop"),
    settings="a raw asyncio Protocol on hiredis and uvloop, COUNT 500 with read-ahead, one task a message, one XACK "
    "and one XDEL in a turn of the loop: the least that a signed, at-least-once worker can do",
    delivery="at-least-once in name: nothing takes over what a dead worker held",
    publish=(common.ONE, common.CONCURRENT, common.MANY),
    publisher=publisher,
    work=work,
    signed=True,
)

if __name__ == "__main__":
    common.main(PEER)
