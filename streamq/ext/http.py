"""``--http``: /livez, /readyz and /metrics of a worker.

A thread of its own answers, so that a blocked event loop can be seen from outside instead of hanging the probe.
"""

import asyncio
import socket
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import structlog

from streamq.app import AppWorker, StreamQ
from streamq.core.errors import ConfigError, StreamqError
from streamq.ext.metrics import Metrics
from streamq.store.inspect import QueueStats

SCRAPE_PATIENCE = 3.0  # seconds that Redis gets to answer a scrape
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@asynccontextmanager
async def serve_http(app: StreamQ, serving: AppWorker, address: str) -> AsyncIterator[tuple[str, int]]:
    """Answer probes and scrapes for the time of a block.

    Args:
        app: whose worker it is.
        serving: the worker.
        address: ``HOST:PORT``; ``:PORT`` is 127.0.0.1, port 0 takes a free one.

    Yields:
        Host and port it listens on.

    Raises:
        ConfigError: the address is unusable or taken.
    """
    loop = asyncio.get_running_loop()
    stats = partial(_stats, app, serving, loop)
    tasks = partial(_tasks, loop)
    metrics = Metrics(app.registry, stats, partial(_slots, serving), partial(_lag, serving), tasks)
    app.observe(metrics)
    host, port = parse_address(address)
    try:
        server = _Server((host, port))
    except OSError as error:
        raise ConfigError(f"--http {address}: {error.strerror or error}; choose another port") from error
    server.serving, server.metrics = serving, metrics
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="streamq-http", daemon=True
    )
    thread.start()
    where = server.server_address[:2]
    structlog.get_logger("streamq").info("serving /livez /readyz /metrics", address=f"http://{host}:{where[1]}")
    try:
        yield str(where[0]), int(where[1])
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``, ``[V6]:PORT`` or ``:PORT``.

    Raises:
        ConfigError: it is none of these.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"--http {text!r}: expected HOST:PORT, like 0.0.0.0:9090, or :9090 for this machine only")
    return host.strip("[]") or "127.0.0.1", int(port)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    serving: AppWorker
    metrics: Metrics

    def __init__(self, address: tuple[str, int]) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Probe)

    def handle_error(self, *_: Any) -> None:
        """A prober that hung up is no news; anything else is a bug, and belongs in the log."""
        error = sys.exception()
        if not isinstance(error, ConnectionError):
            structlog.get_logger("streamq").error("a probe was not answered", exc_info=error)


class _Probe(BaseHTTPRequestHandler):
    server: _Server
    server_version = "streamq"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        worker = self.server.serving.worker
        if path == "/metrics":
            self._answer(HTTPStatus.OK, self.server.metrics.text(), METRICS_TYPE)
        elif path in ("/livez", "/readyz"):
            if worker is None:
                ok, text = path == "/livez", "starting"
            else:
                ok, text = worker.health.live() if path == "/livez" else worker.health.ready()
            self._answer(HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE, f"{text}\n".encode())
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"there are /livez, /readyz and /metrics\n")

    do_HEAD = do_GET  # noqa: N815 - the name that the base class looks for

    def log_message(self, format: str, *args: Any) -> None:
        """Probes come every few seconds: they are not news."""

    def _answer(self, status: HTTPStatus, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _stats(app: StreamQ, serving: AppWorker, loop: asyncio.AbstractEventLoop) -> Sequence[QueueStats]:
    """How the worker's queues stand; nothing when Redis or the loop does not answer in time."""
    if serving.worker is None:
        return ()
    queues = [lane.queue for lane in serving.worker.lanes]

    async def ask() -> Sequence[QueueStats]:
        return await app.session.inspector.stats(queues)

    asked = asyncio.run_coroutine_threadsafe(ask(), loop)
    try:
        return asked.result(SCRAPE_PATIENCE)
    except (FutureTimeout, StreamqError):  # or the worker has just ended
        asked.cancel()
        return ()


def _slots(serving: AppWorker) -> list[tuple[str, int, int]]:
    if serving.worker is None:
        return []
    return [(lane.queue, len(lane.in_flight), lane.in_flight.slots) for lane in serving.worker.lanes]


def _lag(serving: AppWorker) -> float:
    return serving.worker.health.lag() if serving.worker is not None else 0.0


def _tasks(loop: asyncio.AbstractEventLoop) -> int:
    return len(asyncio.all_tasks(loop))
