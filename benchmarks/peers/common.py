"""What the adapters share: the command line, the payload, the counter, the stamps, the timing. Standard library alone.

An adapter is run as a script, so that its folder stands first on the module path. Importing this module takes it away
again: `import celery` in celery.py would mean the adapter itself.
"""

import argparse
import asyncio
import fcntl
import importlib.metadata
import json
import logging
import mmap
import os
import platform
import signal
import struct
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != Path(__file__).parent]

ONE, CONCURRENT, MANY = "one", "concurrent", "many"
KINDS = ("noop", "sleep", "stamp")
QUEUE = "bench"
WARM_UP, LANES, BULK = 100, 100, 1000  # messages: before the clock runs, under way at once, in one bulk call
NAP = 0.05  # seconds
SIZE, CELL = 200, 8  # bytes: of JSON, of a counter

Payload = dict[str, Any]


def payload(sent: float = 0.0) -> Payload:
    """One message: 200 bytes of compact JSON when ``sent`` is 0.0."""
    return {"type": "noop", "sent": sent, "body": "x" * (SIZE - len('{"type":"noop","sent":0.0,"body":""}'))}


class Sender(NamedTuple):
    """How a connected peer publishes.

    Attributes:
        one: publishes a payload; a coroutine function, or a plain one where the peer blocks its caller.
        many: publishes a list of them in one call, where the peer has such a call.
    """

    one: Callable[[Payload], Any]
    many: Callable[[list[Payload]], Any] | None = None


class Peer(NamedTuple):
    """A contestant.

    Attributes:
        name: as its file.
        packages: whose versions are told.
        settings: one sentence: how it was set up and why.
        delivery: what it promises with these settings.
        publish: the modes that it has.
        publisher: connects; its kind says whether the peer is asynchronous.
        work: runs one worker for a kind of handler and a concurrency, until SIGTERM.
        language: of its worker.
        signed: whether it signs and verifies its messages.
    """

    name: str
    packages: tuple[str, ...]
    settings: str
    delivery: str
    publish: tuple[str, ...]
    publisher: Callable[[], AbstractAsyncContextManager[Sender] | AbstractContextManager[Sender]]
    work: Callable[[str, int], object]
    language: str = "Python"
    signed: bool = False


def redis_url(lanes: int = 0) -> str:
    """The server of this run.

    Args:
        lanes: how much goes on at once, for peers with a connection for each: a pool of redis-py stops at 100.
    """
    url = os.environ["BENCH_REDIS_URL"]
    return f"{url}?max_connections={3 * lanes + 10}" if lanes else url


def run(coroutine: Coroutine[Any, Any, object]) -> None:
    """Run it to its end, on uvloop where the peer's environment has it."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(coroutine)
    else:
        uvloop.run(coroutine)


async def until_stopped(coroutine: Coroutine[Any, Any, object]) -> None:
    """Run it until SIGTERM, for peers that leave the signals to their program."""
    task = asyncio.ensure_future(coroutine)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with suppress(asyncio.CancelledError):
        await task


def stopping() -> threading.Event:
    """What SIGTERM sets from now on, for peers that work in threads of their own."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    return stopped


def use_uvloop() -> None:
    """Every event loop from now on is uvloop's, for peers that make their own."""
    import uvloop

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


def main(peer: Peer) -> None:
    """Do what the command line says."""
    options = _options(peer)
    logging.disable(logging.WARNING)  # errors are told, the rest would be measured
    if options.command == "about":
        print(json.dumps(about(peer)))
    elif options.command == "work":
        peer.work(options.kind, options.concurrency)
    else:
        connection = peer.publisher()
        if isinstance(connection, AbstractAsyncContextManager):
            run(_publish_async(connection, options))
        else:
            _publish_blocking(connection, options)


def _options(peer: Peer) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=peer.settings)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("about")
    publish = commands.add_parser("publish")
    publish.add_argument("mode", choices=peer.publish)
    publish.add_argument("count", type=int)
    work = commands.add_parser("work")
    work.add_argument("kind", choices=KINDS)
    work.add_argument("concurrency", type=int)
    trickle = commands.add_parser("trickle")
    trickle.add_argument("count", type=int)
    trickle.add_argument("rate", type=float)
    return parser.parse_args()


def about(peer: Peer) -> dict[str, object]:
    """What the results say of a peer; of one that is not installed, all but the versions."""
    versions = {"python": platform.python_version()}
    for package in peer.packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    told = {"name": peer.name, "language": peer.language, "versions": versions, "settings": peer.settings}
    return {**told, "delivery": peer.delivery, "publish": list(peer.publish), "signed": peer.signed}


# Publishing


async def _publish_async(connection: AbstractAsyncContextManager[Sender], options: argparse.Namespace) -> None:
    async with connection as sender:
        if options.command == "trickle":
            for moment in _moments(options):
                await asyncio.sleep(moment - time.monotonic())
                await sender.one(payload(time.time()))
            return
        await _send_async(sender, options.mode, WARM_UP)
        with _timed(options.count):
            await _send_async(sender, options.mode, options.count)


async def _send_async(sender: Sender, mode: str, count: int) -> None:
    message = payload()
    if mode == MANY:
        assert sender.many is not None
        for size in _sizes(count):
            await sender.many([message] * size)
        return

    left = iter(range(count))

    async def lane() -> None:
        for _ in left:
            await sender.one(message)

    await asyncio.gather(*(lane() for _ in range(LANES if mode == CONCURRENT else 1)))


def _publish_blocking(connection: AbstractContextManager[Sender], options: argparse.Namespace) -> None:
    with connection as sender:
        if options.command == "trickle":
            for moment in _moments(options):
                time.sleep(max(moment - time.monotonic(), 0))
                sender.one(payload(time.time()))
            return
        _send_blocking(sender, options.mode, WARM_UP)
        with _timed(options.count):
            _send_blocking(sender, options.mode, options.count)


def _send_blocking(sender: Sender, mode: str, count: int) -> None:
    message = payload()
    if mode == MANY:
        assert sender.many is not None
        for size in _sizes(count):
            sender.many([message] * size)
        return
    for _ in range(count):
        sender.one(message)


def _sizes(count: int) -> Iterator[int]:
    for start in range(0, count, BULK):
        yield min(BULK, count - start)


def _moments(options: argparse.Namespace) -> Iterator[float]:
    """When each message is due: by the clock, however long the one before took."""
    start = time.monotonic()
    return (start + number / options.rate for number in range(options.count))


@contextmanager
def _timed(count: int) -> Iterator[None]:
    started, cpu = time.perf_counter(), time.process_time()
    yield
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    print(json.dumps({"count": count, "seconds": seconds, "cpu_seconds": cpu_seconds, "queued": count + WARM_UP}))


# Handlers


def handler(kind: str) -> Callable[[Mapping[str, Any]], Awaitable[None]]:
    """The asynchronous handler of that kind, for a worker of one process and one thread."""
    counter, stamps = counter_cell(), stamps_file()

    async def noop(_: Mapping[str, Any]) -> None:
        counter[0] += 1

    async def sleep(_: Mapping[str, Any]) -> None:
        await asyncio.sleep(NAP)
        counter[0] += 1

    async def stamp(message: Mapping[str, Any]) -> None:
        os.write(stamps, struct.pack("d", time.time() - message["sent"]))
        counter[0] += 1

    return {"noop": noop, "sleep": sleep, "stamp": stamp}[kind]


def blocking_handler(kind: str, *, own_cell: bool = False) -> Callable[[Mapping[str, Any]], None]:
    """The handler of that kind for a worker of threads.

    Args:
        kind: of ``KINDS``.
        own_cell: count in a further cell of the counter: for each of several processes, which call this themselves.
    """
    counter, stamps, lock = counter_cell(own=own_cell), stamps_file(), threading.Lock()

    def handle(message: Mapping[str, Any]) -> None:
        if kind == "sleep":
            time.sleep(NAP)
        elif kind == "stamp":
            os.write(stamps, struct.pack("d", time.time() - message["sent"]))
        with lock:
            counter[0] += 1

    return handle


def counter_cell(*, own: bool = False) -> memoryview:
    """Where handled messages are counted.

    Args:
        own: in a further cell of the counter; else in the first.
    """
    with Path(os.environ["BENCH_COUNTER"]).open("r+b") as file:
        if own:
            fcntl.lockf(file, fcntl.LOCK_EX)  # until it is closed
            file.truncate(file.seek(0, os.SEEK_END) + CELL)
        cells = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
    return cells[-1:] if own else cells[:1]


def stamps_file() -> int:
    """The descriptor of the file that delays are appended to."""
    return os.open(os.environ["BENCH_STAMPS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
