"""The public door: register handlers, publish, run workers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from inspect import isasyncgenfunction
from pathlib import Path
from typing import Any, Self, TypeVar, Unpack

from streamq import logs
from streamq.core.config import check_queue_name
from streamq.core.errors import StreamqError, cause_of
from streamq.core.events import Observer, Observers
from streamq.core.middleware import Middleware
from streamq.core.receipt import Receipt
from streamq.core.registry import ErrorTypes, Executor, Isolate, Registry
from streamq.handlers import HandlerDecorator, PublishOptions, decorator, encode_all_for, encode_for, options_from
from streamq.replaying import DeadLetterBox
from streamq.runtime.child import Program
from streamq.runtime.plan import Plan
from streamq.runtime.worker import Worker
from streamq.session import Session, open_session
from streamq.settings import Settings, load_settings
from streamq.sync import SyncPublisher

F = TypeVar("F", bound=Callable[..., Any])


class StreamQ:
    """An app: handlers, and the way to Redis.

    Args:
        redis_url: where Redis is; otherwise it is found (STREAMQ_REDIS_URL, REDIS_URL, config/queues.yaml, this
            machine, an embedded server).
        config: path of the configuration; otherwise config/queues.yaml here or further up.
        settings: everything that would be found, for tests.

    Nothing is read and nothing connected before ``async with app``, a worker's ``run``, or the first use of ``sync``.

    Attributes:
        sync: publishes for code without an event loop; see ``SyncPublisher``.
    """

    def __init__(
        self, *, redis_url: str | None = None, config: str | Path | None = None, settings: Settings | None = None
    ) -> None:
        self._redis_url, self._config_path = redis_url, config
        self._settings = settings
        self._session: Session | None = None
        self._open = 0
        self._lock: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None
        self._logging = False
        self._stack = contextlib.AsyncExitStack()
        self._lifespan: Callable[[], AbstractAsyncContextManager[Any]] | None = None
        self._middleware: list[Middleware] = []
        self.registry = Registry()
        self.observers = Observers()
        self.sync = SyncPublisher(lambda: self.settings, self.registry, self.observers)

    @property
    def settings(self) -> Settings:
        """What was configured; read at the first use.

        Raises:
            ConfigError: the configuration cannot be used.
        """
        if self._settings is None:
            path = Path(self._config_path) if self._config_path is not None else None
            self._settings = load_settings(config=path, redis_url=self._redis_url)
        return self._settings

    def configure(self, settings: Settings | None) -> None:
        """Use these settings from now on: what the command line or a test found.

        Args:
            settings: None = look for them again at the next use.
        """
        self._settings = settings

    def handler(
        self, queue: str | Sequence[str], *, type: str | None = None, executor: Executor | None = None,
        isolate: Isolate = "process", timeout: float | None = None, max_retries: int | None = None,
        retry_on: ErrorTypes = (), never_retry: ErrorTypes = (), **publish_options: Any,
    ) -> HandlerDecorator:  # fmt: skip
        """Register a function as the handler of a type.

        Args:
            queue: its queue, or several; publishing goes to the first.
            type: the payload type it handles, the function's name by default; ``video_*`` handles every type that
                begins so, unless a handler names it exactly or with a longer prefix.
            executor: ``process`` runs a plain function in a child process that a time limit can kill. By default
                coroutine functions run on the event loop and plain ones in a thread.
            isolate: where a message runs that cost two workers: ``process`` is a process of its own in which
                ``streamq worker`` starts the app once more; ``worker`` is the worker itself, while nothing else runs
                there: for an app that cannot be there twice.
            timeout: seconds one run may take; the smallest of this, the message's and the queue's counts.
            max_retries: retries after the first run, unless the message says otherwise.
            retry_on: exception types that are always retried.
            never_retry: exception types that make a dead letter at once.
            **publish_options: defaults for ``publish``: priority, delay, expires, ...

        Raises:
            StreamqError: another handler has the type, or the signature cannot be filled from a payload.
        """
        if callable(queue):
            raise StreamqError('@app.handler needs the queue: write @app.handler("email_queue")')
        queues = [check_queue_name(name) for name in ([queue] if isinstance(queue, str) else queue)]
        return decorator(
            self.registry, self._send, self.sync.send, queues, type=type, executor=executor, isolate=isolate,
            timeout=timeout, max_retries=max_retries, retry_on=retry_on, never_retry=never_retry,
            publish_options=publish_options,
        )  # fmt: skip

    def lifespan(self, function: F) -> F:
        """Register what lives as long as a worker; what it yields is ``ctx.state``.

        Args:
            function: an async generator function, or one that returns an async context manager.
        """
        self._lifespan = asynccontextmanager(function) if isasyncgenfunction(function) else function
        return function

    def middleware(self, function: F) -> F:
        """Register ``async def layer(ctx, call_next)`` around every handler. The first registered is the outermost."""
        self._middleware.append(function)
        return function

    def observe(self, observer: Observer, *, routine: bool = True) -> None:
        """Tell an observer of what happens; see ``streamq.core.events``.

        Args:
            observer: called with each event; quick, and never raising.
            routine: also of what happens to every message, not only of failures and what is rare.
        """
        self.observers.add(observer, routine=routine)

    async def __aenter__(self) -> Self:
        """Connect, to publish and to look."""
        async with self._door():
            if self._open == 0:
                self._session = await self._stack.enter_async_context(open_session(self.settings, self.observers))
            self._open += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        """Disconnect."""
        async with self._door():
            self._open -= 1
            if self._open == 0:
                self._session = None
                await self._stack.aclose()

    def _door(self) -> asyncio.Lock:
        """One opens or closes at a time. A lock is of one event loop, and a script may run several in turn."""
        loop = asyncio.get_running_loop()
        if self._lock is None or self._lock[0] is not loop:
            self._lock = (loop, asyncio.Lock())
        return self._lock[1]

    @property
    def session(self) -> Session:
        """The open connections.

        Raises:
            StreamqError: outside of ``async with app``.
        """
        if self._session is None:
            raise StreamqError("the app is not connected: use it inside `async with app:`")
        return self._session

    async def publish(self, queue: str, payload: object, **options: Unpack[PublishOptions]) -> Receipt:
        """Publish a message by the name of its queue.

        Args:
            queue: where to.
            payload: a JSON object (dict, msgspec.Struct, dataclass) with a ``type`` that names the handler.
            **options: priority, delay, delay_until, max_retries, timeout, expires, correlation_id, created_by, headers,
                idempotency_key, message_id, durable.

        Returns:
            The message's id, and whether it was a duplicate.

        Raises:
            InvalidMessage: the payload or an option is unusable.
            MessageTooLarge: it has more bytes than ``max_size``.
            QueueFull: there is no room and ``on_full`` makes none.
            PublishUnknown: Redis did not answer for minutes; publishing again with ``error.id`` is safe.
            DurabilityUnconfirmed: it was accepted, but not what ``durable`` asks for; likewise.
        """
        return await self._send(queue, encode_for(self.registry, queue, payload), options)

    async def publish_many(
        self, queue: str, payloads: Iterable[object], **options: Unpack[PublishOptions]
    ) -> list[Receipt]:
        """Publish messages that share their options, one round trip for each 500.

        Args:
            queue: where to.
            payloads: as for ``publish``.
            **options: as for ``publish``, without message_id and idempotency_key.

        Raises:
            as ``publish``; after QueueFull and DurabilityUnconfirmed, ``error.receipts`` tells which were accepted.
        """
        encoded = encode_all_for(self.registry, queue, payloads)
        return await self.session.publisher.publish_many(queue, encoded, options_from(options))

    @property
    def dead_letters(self) -> DeadLetterBox:
        """List, replay and purge dead letters."""
        return self.session.dead_letters

    def worker(
        self, *queues: str, concurrency: int | None = None, burst: bool = False, name: str | None = None,
        drain_timeout: float | None = None,
    ) -> "AppWorker":  # fmt: skip
        """A worker in this process.

        Args:
            *queues: which to serve; without any, all that have handlers.
            concurrency: handlers that run at once on each queue, instead of ``max_consumers``.
            burst: end when nothing is ready and nothing of ours is pending.
            name: the first part of the consumer's name.
            drain_timeout: seconds that running handlers get when it is stopped.
        """
        return AppWorker(self, queues, concurrency=concurrency, burst=burst, name=name, drain_timeout=drain_timeout)

    async def _send(self, queue: str, payload: bytes, options: Any) -> Receipt:
        return await self.session.publisher.publish(queue, payload, options_from(options))

    @asynccontextmanager
    async def plan(self, queues: Sequence[str], **choices: Any) -> AsyncIterator[Plan]:
        """What a worker of this app is to do, while it is connected."""
        async with self:
            session = self.session
            if not self._logging:
                self._logging = True
                self.observe(logs.LogObserver(), routine=self.settings.log_level == "debug")
            yield Plan(
                queues=session.queue_configs(queues or self.registry.queues(), choices.pop("concurrency")),
                limits=self.settings.config.worker,
                connections=session.connections,
                keyspace=session.keyspace,
                registry=self.registry,
                keys=session.keys,
                rules=self.settings.config.errors,
                publish=self.publish,
                logger_for=logs.logger_for,
                middleware=self._middleware,
                lifespan=self._lifespan,
                observers=self.observers,
                revive=session.located.revive,
                precautions=session.precautions,
                **choices,
            )


class AppWorker:
    """A worker of an app, not yet running."""

    def __init__(self, app: StreamQ, queues: Sequence[str], **choices: Any) -> None:
        self._app, self._queues, self._choices = app, queues, choices
        self._stopped = False
        self.worker: Worker | None = None
        self.suspects: Program | None = None  # starts the app in a child process; only the command line knows how

    async def run(self) -> int:
        """Serve until stopped, or in a burst until nothing is left.

        Returns:
            How many handlers were cut short at the end and handed back.

        Raises:
            RedisUnavailable: Redis was not reachable for the first 10 s.
            ConfigError: the configuration cannot be used.
        """
        async with self._app.plan(self._queues, suspects=self.suspects, **self._choices) as plan:
            self.worker = Worker(plan)
            logs.tell_start(plan.registry, plan.queues, self.worker.consumer, str(plan.connections.url))
            if self._stopped:
                self.worker.stop()
            try:
                return await self.worker.run()
            except BaseExceptionGroup as group:
                raise cause_of(group) from None

    def running(self) -> int:
        """How many messages it holds."""
        return sum(len(lane.in_flight) for lane in self.worker.lanes) if self.worker is not None else 0

    def has_busy_threads(self) -> bool:
        """Whether a handler still runs in a thread that cannot be stopped."""
        return self.worker is not None and self.worker.executors.busy_threads > 0

    def stop(self) -> None:
        """Take no more and finish what runs; the second call does not wait."""
        self._stopped = True
        if self.worker is not None:
            self.worker.stop()
