"""The wire: replies reach those who wait for them, in order, and whoever waits in vain is told."""

import asyncio

import pytest
from redis.asyncio import Redis
from redis.asyncio.connection import Connection
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as NoReply

from streamq.store.wire import Line, Wire
from tests.support import wait_until


@pytest.fixture
async def line(server):
    """A line to a real server."""

    async def connect():
        connection = pool.connection_class(**{**pool.connection_kwargs, "protocol": 2})
        await connection.connect()
        return connection

    client = Redis.from_url(server.url)
    pool = client.connection_pool
    line = Line(connect, 5.0)
    yield line
    await line.aclose()
    await client.aclose()


class Stub:
    """Takes a connection, and answers with what a test says: nobody else sends garbage, or nothing at all."""

    def __init__(self):
        self.heard = b""
        self.connected = 0
        self._more, self._tasks = asyncio.Event(), []

    async def start(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader, writer):
        self.connected += 1
        self.writer = writer
        self._tasks.append(asyncio.current_task())
        while more := await reader.read(1000):
            self.heard += more
            self._more.set()
        writer.close()
        await writer.wait_closed()

    async def until_heard(self, text):
        while text not in self.heard:
            self._more.clear()
            await self._more.wait()

    async def connect(self):
        connection = Connection(host="127.0.0.1", port=self.port, protocol=2, driver_info=None)
        await connection.connect()
        return connection

    async def close(self):
        self._server.close()
        await asyncio.wait(self._tasks)


@pytest.fixture
async def stub():
    stub = Stub()
    await stub.start()
    yield stub
    await stub.close()


@pytest.fixture
async def wire(stub):
    wire = Wire(await stub.connect(), 5.0)
    yield wire
    await wire.aclose()


async def together(line, *commands):
    """Send commands in one write; a reply or an error for each."""
    wire = await line.open()
    return await asyncio.gather(*wire.send(commands), return_exceptions=True)


async def test_replies_come_in_the_order_of_the_commands(line):
    values = await asyncio.gather(*(line.send("ECHO", f"{number}") for number in range(500)))
    assert values == [b"%d" % number for number in range(500)]


async def test_texts_bytes_and_numbers_are_sent_and_bytes_come_back(line):
    assert await line.send("SET", "k", b"\0\xff") == b"OK"
    assert await together(line, ("GET", "k"), ("APPEND", b"k", 7), ("GET", "k")) == [b"\0\xff", 3, b"\0\xff7"]


async def test_what_redis_refuses_is_an_error_of_redis_py_for_that_one_alone(line):
    await line.send("SET", "k", "v")
    pong, wrong, unknown = await together(line, ("PING",), ("LPUSH", "k", "v"), ("EVALSHA", "0" * 40, 0))
    assert pong == b"PONG"
    assert isinstance(wrong, ResponseError)
    assert type(unknown).__name__ == "NoScriptError"
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await line.send("LPUSH", "k", "v")
    assert await line.send("PING") == b"PONG"


async def test_whoever_gives_up_does_not_get_the_replies_of_others(line):
    slow = asyncio.ensure_future(line.send("BLPOP", "nothing", 0.05))
    await line.open()
    await asyncio.sleep(0)
    slow.cancel()
    assert await line.send("ECHO", "mine") == b"mine"
    assert slow.cancelled()


async def test_tasks_that_come_together_open_one_connection(stub):
    line = Line(stub.connect, 5.0)
    assert line.address is None
    wires = await asyncio.gather(*(line.open() for _ in range(5)))
    assert len(set(wires)) == stub.connected == 1
    assert line.address == ("127.0.0.1", stub.port)
    await line.aclose()
    await line.aclose()
    line.close()
    assert line.address is None


async def test_a_line_that_broke_is_opened_again(line):
    wire = await line.open()
    wire.close()
    assert await line.send("PING") == b"PONG"
    assert await line.open() is not wire
    with pytest.raises(LostConnection, match="closed"):
        wire.send((("PING",),))


async def test_a_server_that_hangs_up_is_told_to_all_who_wait(stub, wire):
    waiting = wire.send((("ONE",), ("TWO",)))
    await stub.until_heard(b"TWO")
    stub.writer.close()
    for future in waiting:
        with pytest.raises(LostConnection, match="closed by Redis"):
            await future
    assert wire.closed


async def test_a_connection_that_breaks_says_why(wire):
    (future,) = wire.send((("ONE",),))
    wire.connection_lost(OSError("no route"))
    with pytest.raises(LostConnection, match="no route"):
        await future
    wire._transport.abort()  # it only seemed so


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad\r\n", b"+OK\r\n+OK\r\n"], ids=["http", "one too many"])
async def test_what_is_no_answer_ends_the_connection(stub, wire, garbage):
    first, second = wire.send((("ONE",), ("TWO",)))
    second.cancel()
    await stub.until_heard(b"TWO")
    stub.writer.write(b"+OK\r\n" + garbage)
    assert await first == b"OK"
    await asyncio.to_thread(wait_until, lambda: wire.closed)
    with pytest.raises(LostConnection):
        wire.send((("THREE",),))


async def test_a_reply_in_two_parts_is_one(stub, wire):
    (future,) = wire.send((("ONE",),))
    await stub.until_heard(b"ONE")
    stub.writer.write(b"$4\r\nab")
    await stub.writer.drain()
    await asyncio.sleep(0)
    stub.writer.write(b"cd\r\n")
    assert await future == b"abcd"


async def test_a_reply_that_does_not_come_ends_the_connection_in_time(stub):
    """The time of each command counts from its own beginning."""
    wire = Wire(await stub.connect(), 0.05)
    (first,) = wire.send((("ONE",),))
    await stub.until_heard(b"ONE")
    stub.writer.write(b"+OK\r\n")
    assert await first == b"OK"
    (second,) = wire.send((("TWO",),))
    wire._look()
    assert not second.done()
    with pytest.raises(NoReply, match=r"0\.05 s"):
        await second
    assert wire.closed


async def test_a_wire_that_rests_is_not_watched(stub):
    wire = Wire(await stub.connect(), 0.01)
    (future,) = wire.send((("ONE",),))
    await stub.until_heard(b"ONE")
    stub.writer.write(b"+OK\r\n")
    await future
    await asyncio.to_thread(wait_until, lambda: wire._watch is None)
    assert not wire.closed
    await wire.aclose()
