"""What scenarios share: a private server, an app, interleaved runs."""

import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from streamq import StreamQ
from streamq.core.signing import KeyRing
from streamq.settings import Settings, load_settings
from streamq.store.embedded import EmbeddedServer

QUEUE = "bench_queue"
KEYS = "bench:active:" + "QUJD" * 11
ROUNDS = 5
PAYLOAD = {"type": "noop", "text": "x" * 170}


@asynccontextmanager
async def private_server() -> AsyncIterator[str]:
    """The URL of a server that nobody else uses."""
    with tempfile.TemporaryDirectory(prefix="streamq-bench-") as home, EmbeddedServer(Path(home) / "redis") as url:
        yield url


def settings(url: str) -> Settings:
    """Defaults, with signing on and room for everything."""
    return load_settings(
        redis_url=url,
        environ={"STREAMQ_SIGNING_KEYS": KEYS, "STREAMQ_DEFAULTS__MAX_LENGTH": "0", "LOG_LEVEL": "error"},
        start=Path("/"),
    )


def app(url: str) -> StreamQ:
    """An app with one handler that does nothing."""
    made = StreamQ(settings=settings(url))

    @made.handler(QUEUE, type="noop")
    async def noop(text: str) -> None: ...

    return made


def keys() -> KeyRing:
    """The signing keys of all scenarios."""
    return KeyRing.parse(KEYS)


def client(url: str) -> Any:
    """redis-py as a careful user sets it up: binary, no hidden repeats."""
    return redis.asyncio.Redis.from_url(url, retry=Retry(NoBackoff(), 0))


async def rate(count: int, work: Callable[[], Awaitable[Any]]) -> float:
    """Items a second of one run."""
    started = time.perf_counter()
    await work()
    return count / (time.perf_counter() - started)


def row(what: str, ours: list[float], baseline: list[float], against: str) -> dict[str, object]:
    """One line of the result: medians, and the ratio pair by pair."""
    ratios = [mine / theirs for mine, theirs in zip(ours, baseline, strict=True)]
    return {
        "scenario": what,
        "streamq/s": round(statistics.median(ours)),
        "baseline/s": round(statistics.median(baseline)),
        "ratio": round(statistics.median(ratios), 2),
        "spread": f"{min(ratios):.2f}..{max(ratios):.2f}",
        "baseline": against,
    }
