"""Probes and scrapes: answered by a thread of their own, so that a blocked loop can be seen from outside."""

import asyncio
import contextlib
import socket
import threading
from types import SimpleNamespace
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from streamq.core.errors import ConfigError
from streamq.core.events import Settled
from streamq.ext import http as module
from streamq.ext.http import parse_address, serve_http
from streamq.runtime import health
from tests.runtime.rig import QUEUE, serving, soon, until


def ask(where, path, method="GET"):
    """Here and now: while the answer is awaited the event loop stands still."""
    host, port = where
    host = f"[{host}]" if ":" in host else host
    try:
        with urlopen(Request(f"http://{host}:{port}{path}", method=method), timeout=10) as answer:
            return answer.status, answer.read().decode(), answer.headers["Content-Type"]
    except HTTPError as error:
        with error:
            return error.code, error.read().decode(), error.headers["Content-Type"]


async def ask_politely(where, path):
    """Without stopping the loop."""
    return await asyncio.to_thread(ask, where, path)


@pytest.fixture
def app(make_app):
    app = make_app()

    @app.handler(QUEUE)
    async def work():
        pass

    return app


async def test_before_it_runs_a_worker_is_alive_and_not_ready(app):
    async with serve_http(app, app.worker(), "127.0.0.1:0") as where:
        assert ask(where, "/livez")[:2] == (200, "starting\n")
        assert ask(where, "/readyz")[:2] == (503, "starting\n")


async def test_a_worker_that_reads_is_ready_until_it_is_stopped(app):
    async with serving(app) as worker, serve_http(app, worker, "127.0.0.1:0") as where:
        assert ask(where, "/livez")[:2] == (200, "ok\n")
        assert ask(where, "/readyz")[:2] == (200, "ok\n")
        worker.stop()
        assert ask(where, "/readyz")[:2] == (503, "quiet\n")
        assert ask(where, "/livez")[0] == 200
        await soon(worker.task)
        assert ask(where, "/readyz")[:2] == (503, "stopped\n")


async def test_a_blocked_loop_is_seen(app, monkeypatch):
    """The probe is answered, and says so; when the loop turns again all is well."""
    monkeypatch.setattr(health, "PULSE", 0.01)
    monkeypatch.setattr(health, "STALLED", 0.3)
    async with serving(app) as worker, serve_http(app, worker, "127.0.0.1:0") as where:
        threading.Event().wait(0.4)
        status, text, _ = ask(where, "/livez")
        assert (status, text.startswith("the event loop has been blocked for ")) == (503, True)
        await until(lambda: worker.worker.health.live().ok)
        assert ask(where, "/livez")[0] == 200


async def test_metrics_tell_what_happened_and_how_the_queues_stand(app):
    async with app, serving(app) as worker, serve_http(app, worker, "127.0.0.1:0") as where:
        await app.publish(QUEUE, {"type": "work"})
        await app.publish(QUEUE, {"type": "work"}, delay=3600)
        await worker.events.until(Settled)
        status, text, kind = await ask_politely(where, "/metrics")
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert 'streamq_settled_total{outcome="done",queue="orders"} 1.0' in text
    assert 'streamq_published_total{outcome="accepted",queue="orders"} 2.0' in text
    assert 'streamq_queue_delayed{queue="orders"} 1.0' in text
    assert 'streamq_queue_consumers{queue="orders"} 1.0' in text
    assert 'streamq_slots{queue="orders"} 5.0' in text


async def test_metrics_are_there_while_the_loop_is_blocked(app, monkeypatch):
    """Without what only Redis knows: no number is better than an old one."""
    monkeypatch.setattr(module, "SCRAPE_PATIENCE", 0.05)
    async with serving(app) as worker, serve_http(app, worker, "127.0.0.1:0") as where:
        status, text, _ = ask(where, "/metrics")
        assert status == 200
        assert "streamq_queue_ready{" not in text
        assert 'streamq_busy_slots{queue="orders"} 0.0' in text


async def test_metrics_are_there_before_and_after_the_worker(app):
    async with serve_http(app, app.worker(), "127.0.0.1:0") as where:
        assert (await ask_politely(where, "/metrics"))[0] == 200
    async with serving(app) as worker, serve_http(app, worker, "127.0.0.1:0") as where:
        worker.stop()
        await soon(worker.task)
        status, text, _ = await ask_politely(where, "/metrics")
        assert status == 200
        assert "streamq_queue_ready{" not in text


async def test_other_paths_are_not_found(app):
    async with serve_http(app, app.worker(), "127.0.0.1:0") as where:
        assert ask(where, "/")[:2] == (404, "there are /livez, /readyz and /metrics\n")
        assert ask(where, "/livez?verbose=1")[0] == 200


async def test_head_is_answered_without_a_body(app):
    async with serve_http(app, app.worker(), "127.0.0.1:0") as where:
        with socket.create_connection(where) as client:
            client.sendall(b"HEAD /livez HTTP/1.0\r\n\r\n")
            with client.makefile("rb") as answer:
                head, _, body = answer.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 ")
    assert body == b""


async def test_a_prober_that_hangs_up_is_no_news(app, capfd):
    async with serve_http(app, app.worker(), "127.0.0.1:0") as where:
        for _ in range(3):
            with socket.create_connection(where) as client:
                client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert ask(where, "/livez")[0] == 200
    assert "Traceback" not in capfd.readouterr().err


async def test_a_bug_in_a_probe_is_told_and_costs_one_answer(app, monkeypatch):
    """Not as a bare traceback, but in the log."""
    told = []
    monkeypatch.setattr(
        module.structlog, "get_logger", lambda _: SimpleNamespace(info=lambda *_, **__: None, error=tell)
    )

    def tell(text, exc_info):
        told.append((text, type(exc_info)))

    async with serve_http(app, app.worker(), "127.0.0.1:0") as where:
        monkeypatch.setattr(module.Metrics, "text", lambda _: 1 / 0)
        with pytest.raises(OSError, match="closed"):
            await ask_politely(where, "/metrics")
        assert ask(where, "/livez")[0] == 200
    assert told[-1] == ("a probe was not answered", ZeroDivisionError)


async def test_a_port_that_is_taken_is_a_clear_end(app):
    async with serve_http(app, app.worker(), "127.0.0.1:0") as (host, port):
        with pytest.raises(ConfigError, match="choose another port"):
            async with serve_http(app, app.worker(), f"{host}:{port}"):
                pass


async def test_at_the_end_nobody_listens(app):
    async with serve_http(app, app.worker(), "127.0.0.1:0") as where:
        pass
    with pytest.raises(OSError, match="refused"):
        ask(where, "/livez")


async def test_it_listens_on_ipv6_too(app):
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(socket.create_server(("::1", 0), family=socket.AF_INET6))
        except OSError:
            pytest.skip("there is no IPv6 on this machine")
    async with serve_http(app, app.worker(), "[::1]:0") as where:
        assert where[0] == "::1"
        assert ask(where, "/livez")[0] == 200


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:9090", ("0.0.0.0", 9090)),
        (":9090", ("127.0.0.1", 9090)),
        ("[::1]:9090", ("::1", 9090)),
        ("host:0", ("host", 0)),
    ],
)
def test_an_address_is_read(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["9090", "host", "host:", "host:http", "host:65536", ""])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ConfigError, match="expected HOST:PORT"):
        parse_address(text)
