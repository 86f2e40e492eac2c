"""What an app or a command holds while it is connected."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import structlog

from streamq import logs
from streamq.core import precautions
from streamq.core.config import QueueConfig
from streamq.core.errors import ConfigError, RedisUnavailable
from streamq.core.events import Observers
from streamq.core.signing import KeyRing, resolve_signing
from streamq.publisher import Publisher
from streamq.replaying import DeadLetterBox
from streamq.settings import Settings
from streamq.store.audit import Auditor
from streamq.store.connection import Connections
from streamq.store.inspect import Inspector
from streamq.store.keys import Keyspace
from streamq.store.locate import Located, locate
from streamq.store.server import Server


class Session:
    """Connections and what works on them.

    Args:
        settings: what was configured.
        located: the Redis that was found.
        observers: who is told.
    """

    def __init__(self, settings: Settings, located: Located, observers: Observers) -> None:
        self.settings, self.located = settings, located
        self.keys = signing_keys_of(settings)
        self.connections = Connections(located.url, block=settings.config.worker.block)
        self.keyspace = Keyspace(settings.config.prefix, clustered=self.connections.clustered)
        self.publisher = Publisher(
            self.connections, self.keyspace, settings.config, self.keys, observers=observers,
            production=settings.production,
        )  # fmt: skip
        self.inspector = Inspector(self.connections, self.keyspace, settings.config)
        self.auditor = Auditor(self.connections, self.keyspace, self.inspector)
        self.dead_letters = DeadLetterBox(self.connections, self.keyspace, self.keys, self.publisher)

    def queue_configs(self, names: Sequence[str], concurrency: int | None = None) -> list[QueueConfig]:
        """The queues a worker is to serve, with everything resolved.

        Args:
            names: the queues.
            concurrency: replaces ``max_consumers``.

        Raises:
            ConfigError: there is none, a name is unusable, or signing is asked for without keys.
        """
        if not names:
            raise ConfigError(
                "no queue to serve: no handler is registered; give one with --queue or @app.handler(QUEUE)"
            )
        return [self._resolved(self.settings.config.queue(name), concurrency) for name in dict.fromkeys(names)]

    async def precautions(self) -> None:
        """Warn of a server that may lose messages by how it is set up. Without the right to INFO nothing is said."""
        with contextlib.suppress(RedisUnavailable):
            info = await Server(self.connections, self.keyspace).info()
            if "maxmemory_policy" in info:
                logs.tell_findings([precautions.eviction(info, {}), *precautions.persistence(info, {})])

    def _resolved(self, config: QueueConfig, concurrency: int | None) -> QueueConfig:
        signing = resolve_signing(config, self.keys, production=self.settings.production)
        if not self.keys:
            structlog.get_logger("streamq").warning(
                "messages are not signed: whoever can write to Redis can ask this worker for work",
                queue=config.name, fix="streamq keys generate",
            )  # fmt: skip
        return msgspec.structs.replace(
            config,
            signing=signing,
            max_consumers=concurrency or config.max_consumers,
        )


def signing_keys_of(settings: Settings) -> KeyRing:
    """The signing keys that were configured, if any.

    Raises:
        ConfigError: they are unusable.
    """
    return KeyRing.parse(settings.signing_keys) if settings.signing_keys else KeyRing()


def find_redis(settings: Settings) -> Located:
    """Find Redis, and say so when a server had to be started. Blocks; see ``locate``."""
    logs.ensure_stderr()
    located = locate(
        settings.redis_url, settings.redis_url_origin, project=project_of(settings), production=settings.production
    )
    if located.started and settings.redis_url is None:
        structlog.get_logger("streamq").warning(
            "no Redis found: started an embedded one, for development", url=str(located.url)
        )
    return located


@asynccontextmanager
async def open_session(settings: Settings, observers: Observers | None = None) -> AsyncIterator[Session]:
    """Find Redis and connect for the time of a block.

    Raises:
        RedisUnavailable: no Redis was found.
        ConfigError: the URL or the keys are unusable.
    """
    located = await asyncio.to_thread(find_redis, settings)
    try:
        session = Session(settings, located, observers or Observers())
        try:
            yield session
        finally:
            await session.connections.aclose()
    finally:
        await asyncio.to_thread(located.leave)


def project_of(settings: Settings) -> Path:
    """The directory an embedded server belongs to: that of the configuration, so that all commands share it."""
    if settings.config_path is None:
        return Path.cwd()
    folder = settings.config_path.absolute().parent
    return folder.parent if folder.name == "config" else folder
