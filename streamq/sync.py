"""Publishing without an event loop: ``app.sync``, for Django views, scripts and threads."""

import atexit
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self, Unpack
from weakref import WeakSet

from streamq.core.events import Observers
from streamq.core.receipt import Receipt
from streamq.core.registry import Registry
from streamq.courier import Courier
from streamq.handlers import PublishOptions, encode_all_for, encode_for, options_from
from streamq.publisher import Publisher
from streamq.session import find_redis, signing_keys_of
from streamq.settings import Settings
from streamq.store.blocking import BlockingConnections, finish
from streamq.store.keys import Keyspace


class SyncPublisher:
    """Publishes on blocking sockets; ``app.sync`` is one.

    It finds Redis and connects when it is first used, by the same rules as ``async with app``, and disconnects when it
    is closed, at the latest when the interpreter ends. Any number of threads may use it: each call has a connection for
    itself, and there are as many as there were calls at once. A child process that was forked connects anew.

    Inside of a running event loop it works, but nothing else does until it returns: ``await app.publish(...)`` there.

    As a context manager it is closed at the end of the block. What is published later connects again.

    Args:
        settings: what was configured, read at the first use.
        registry: the app's handlers, which payloads are checked against.
        observers: who is told, on the thread that publishes.
    """

    def __init__(self, settings: Callable[[], Settings], registry: Registry, observers: Observers) -> None:
        self._settings, self._registry, self._observers = settings, registry, observers
        self._opened: _Opened | None = None
        self._opening = threading.Lock()
        _ALL.add(self)

    def publish(self, queue: str, payload: object, **options: Unpack[PublishOptions]) -> Receipt:
        """Publish a message by the name of its queue. Blocks until Redis has it, with ``durable`` until it is durable.

        Args:
            queue: where to.
            payload: a JSON object (dict, msgspec.Struct, dataclass) with a ``type`` that names the handler.
            **options: those of ``StreamQ.publish``.

        Returns:
            The message's id, and whether it was a duplicate.

        Raises:
            as ``StreamQ.publish``; and what ``async with app`` raises, when Redis cannot be found or the configuration
            cannot be used.
        """
        return self.send(queue, encode_for(self._registry, queue, payload), options)

    def publish_many(self, queue: str, payloads: Iterable[object], **options: Unpack[PublishOptions]) -> list[Receipt]:
        """Publish messages that share their options, one round trip for each 500.

        Args:
            queue: where to.
            payloads: as for ``publish``.
            **options: as for ``publish``, without message_id and idempotency_key.

        Raises:
            as ``publish``; after QueueFull and DurabilityUnconfirmed, ``error.receipts`` tells which were accepted.
        """
        encoded = encode_all_for(self._registry, queue, payloads)
        return finish(self._publisher().publish_many(queue, encoded, options_from(options)))

    def send(self, queue: str, payload: bytes, options: Mapping[str, Any]) -> Receipt:
        """Publish what is encoded already."""
        return finish(self._publisher().publish(queue, payload, options_from(options)))

    def close(self) -> None:
        """Disconnect. What other threads publish just now is finished; what they publish later connects again."""
        with self._opening:
            opened, self._opened = self._opened, None
        if opened is not None:
            atexit.unregister(self.close)
            opened.close()

    def __enter__(self) -> Self:
        """Nothing: it connects when it is used."""
        return self

    def __exit__(self, *_: object) -> None:
        """Disconnect."""
        self.close()

    def _publisher(self) -> Publisher:
        opened = self._opened
        if opened is None:
            with self._opening:
                opened = self._opened
                if opened is None:
                    opened = self._opened = _Opened(self._settings(), self._observers)
                    atexit.register(self.close)
        return opened.publisher

    def _forked(self) -> None:
        """In a child process: leave to the parent what is its own, without a word to Redis."""
        self._opening = threading.Lock()  # a thread that is not here may hold the other
        opened, self._opened = self._opened, None
        if opened is not None:
            atexit.unregister(self.close)
            opened.forked()


class _Opened:
    """What a publisher holds while it is connected."""

    def __init__(self, settings: Settings, observers: Observers) -> None:
        keys = signing_keys_of(settings)
        self._located = find_redis(settings)
        self._connections = BlockingConnections(self._located.url)
        keyspace = Keyspace(settings.config.prefix, clustered=self._connections.clustered)
        self.publisher = Publisher(
            self._connections, keyspace, settings.config, keys, observers=observers, production=settings.production,
            courier=_BlockingCourier,
        )  # fmt: skip

    def close(self) -> None:
        self._connections.close()
        self._located.leave()

    def forked(self) -> None:
        self._connections.close_resting()
        self._located.leave()  # it knows that it is not of this process


class _BlockingCourier(Courier):
    """Waits by blocking its thread."""

    async def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - nobody else runs on this thread


_ALL: WeakSet[SyncPublisher] = WeakSet()


def _forked() -> None:
    for publisher in list(_ALL):
        publisher._forked()  # noqa: SLF001 - of this module


os.register_at_fork(after_in_child=_forked)
