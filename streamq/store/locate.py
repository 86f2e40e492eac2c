"""Finding Redis: what was asked for, else what answers on this machine, else a server of our own."""

import asyncio
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from streamq.core.errors import RedisUnavailable
from streamq.store.clients import sync_client
from streamq.store.embedded import DIRECTORY_NAME, EmbeddedServer
from streamq.store.outages import FAILURES
from streamq.store.url import RedisURL, parse_url

LOCAL = "redis://localhost:6379"
PROBE = 1.0  # seconds that a server on this machine gets to answer


class Located(NamedTuple):
    """Where Redis is.

    Attributes:
        url: what clients connect to.
        origin: who said so.
        server: the embedded server, joined; `leave` it.
        started: it did not run before.
    """

    url: RedisURL
    origin: str
    server: EmbeddedServer | None = None
    started: bool = False

    async def revive(self) -> None:
        """Start the embedded server anew when somebody killed it; any other comes back by itself.

        Raises:
            RedisUnavailable: it cannot be started.
        """
        if self.server is not None:
            await asyncio.to_thread(self.server.acquire)

    def leave(self) -> None:
        """Leave the embedded server; the last one out stops it, which blocks for a moment."""
        if self.server is not None:
            self.server.release()


def locate(said: str | None, origin: str, *, project: Path, production: bool) -> Located:
    """Find Redis. Blocks for as long as a server takes to answer, or to start.

    Args:
        said: the URL of the command line, the environment or the configuration; None when there is none.
        origin: who said it.
        project: the directory that an embedded server belongs to.
        production: never start an embedded server by guessing.

    Raises:
        RedisUnavailable: nothing answers and nothing may be started.
        ConfigError: the URL is unusable.
    """
    if said is not None:
        url = parse_url(said)
        return (
            _join(url.directory or project / DIRECTORY_NAME, origin) if url.kind == "embedded" else Located(url, origin)
        )
    if _answers(LOCAL):
        return Located(parse_url(LOCAL), "answers on this machine")
    if production:
        raise RedisUnavailable(
            f"no Redis is configured, nothing answers at {LOCAL}, and STREAMQ_ENV=production starts none of its own: "
            f"name yours with --redis-url or STREAMQ_REDIS_URL"
        )
    return _join(project / DIRECTORY_NAME, "embedded, because no Redis was found (for development only)")


def _join(directory: Path, origin: str) -> Located:
    server = EmbeddedServer(directory)
    ran = server.running()
    return Located(parse_url(server.acquire()), origin, server, not ran)


def _answers(url: str) -> bool:
    with closing(sync_client(parse_url(url), PROBE)) as client, suppress(*FAILURES):
        return bool(client.ping())
    return False
