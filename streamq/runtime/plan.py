"""What a worker is to do: everything it needs, decided before it starts."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from streamq.core.clock import Clock, SystemClock
from streamq.core.config import ErrorRules, QueueConfig, WorkerConfig
from streamq.core.context import PublishCall
from streamq.core.events import Observers
from streamq.core.message import Message
from streamq.core.middleware import Middleware
from streamq.core.registry import Registry
from streamq.core.signing import KeyRing
from streamq.runtime.child import Program
from streamq.store.connection import Connections
from streamq.store.keys import Keyspace

Lifespan = Callable[[], AbstractAsyncContextManager[Any]]


async def _nothing() -> None:
    """Redis is somebody else's: it comes back by itself, and is set up by others."""


@dataclass(kw_only=True)
class Plan:
    """What a worker is to do.

    Args:
        queues: their configurations, with ``signing`` resolved.
        limits: what holds for all of them.
        connections: how to reach Redis.
        keyspace: how keys are spelled.
        registry: the handlers.
        keys: the signing keys.
        rules: the configured classes of errors.
        publish: behind ``ctx.publish``.
        logger_for: behind ``ctx.log``.
        middleware: around every handler.
        lifespan: what lives as long as the worker; its value is ``ctx.state``.
        suspects: the app once more, in a child process: for a message that cost two workers.
        observers: who is told.
        name: the first part of the consumer's name; the host's name by default.
        burst: end when nothing is ready and nothing of ours is pending.
        drain_timeout: seconds that running handlers get at the end; None leaves it to ``limits``.
        clock: this machine's.
        revive: brings an embedded server back that was killed.
        precautions: warns of a server that may lose messages by how it is set up.
    """

    queues: Sequence[QueueConfig]
    limits: WorkerConfig
    connections: Connections
    keyspace: Keyspace
    registry: Registry
    keys: KeyRing
    rules: ErrorRules
    publish: PublishCall
    logger_for: Callable[[Message], Any]
    middleware: Sequence[Middleware] = ()
    lifespan: Lifespan | None = None
    suspects: Program | None = None
    observers: Observers = field(default_factory=Observers)
    name: str | None = None
    burst: bool = False
    drain_timeout: float | None = None
    clock: Clock = field(default_factory=SystemClock)
    revive: Callable[[], Awaitable[None]] = _nothing
    precautions: Callable[[], Awaitable[None]] = _nothing
