"""Which function handles which type on which queue."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from streamq.core.codec import Binding
from streamq.core.errors import StreamqError

ErrorTypes = tuple[type[BaseException], ...]
Executor = Literal["async", "thread", "process"]
Isolate = Literal["process", "worker"]


@dataclass(frozen=True, slots=True)
class Handler:
    """A decorated function and what its decorator said.

    Args:
        type: the type it handles; with a trailing ``*`` every type that begins so.
        queues: the queues it handles it on; publishing goes to the first.
        function: the function itself.
        binding: how payloads become its arguments.
        executor: where it runs.
        isolate: where a message runs that is suspected of killing its worker.
        timeout: seconds one run may take; None leaves it to the queue.
        max_retries: retries after the first run; None leaves it to the queue.
        retry_on: exception types that are retried.
        never_retry: exception types that are not.
        publish_options: defaults of ``publish``.
    """

    type: str
    queues: tuple[str, ...]
    function: Callable[..., Any]
    binding: Binding
    executor: Executor = "async"
    isolate: Isolate = "process"
    timeout: float | None = None
    max_retries: int | None = None
    retry_on: ErrorTypes = ()
    never_retry: ErrorTypes = ()
    publish_options: dict[str, Any] = field(default_factory=dict)

    @property
    def is_pattern(self) -> bool:
        """Whether it handles every type that begins with its prefix."""
        return self.type.endswith("*")


class Registry:
    """The handlers of one app: an exact type beats the longest prefix."""

    def __init__(self) -> None:
        self._exact: dict[tuple[str, str], Handler] = {}
        self._prefixes: dict[str, list[tuple[str, Handler]]] = {}  # per queue, longest first

    def add(self, handler: Handler) -> None:
        """Register a handler.

        Raises:
            StreamqError: another one handles the same type on one of its queues, or its decorator cannot be meant so.
        """
        _check(handler)
        for queue in handler.queues:
            known = self._find(queue, handler.type)
            if known is not None:
                raise StreamqError(
                    f"two handlers for type {handler.type!r} on queue {queue!r}: "
                    f"{_place(known)} and {_place(handler)}; give one of them another type"
                )
        for queue in dict.fromkeys(handler.queues):
            if handler.is_pattern:
                prefixes = self._prefixes.setdefault(queue, [])
                prefixes.append((handler.type[:-1], handler))
                prefixes.sort(key=lambda item: -len(item[0]))
            else:
                self._exact[queue, handler.type] = handler

    def resolve(self, queue: str, message_type: str) -> Handler | None:
        """The handler of a type on a queue; None when this app knows none."""
        exact = self._exact.get((queue, message_type))
        if exact is not None:
            return exact
        candidates = self._prefixes.get(queue, ())
        return next((handler for prefix, handler in candidates if message_type.startswith(prefix)), None)

    def types(self, queue: str) -> list[str]:
        """The types and patterns handled on a queue, sorted."""
        exact = [kind for name, kind in self._exact if name == queue]
        return sorted([*exact, *(f"{prefix}*" for prefix, _ in self._prefixes.get(queue, ()))])

    def queues(self) -> list[str]:
        """The queues that have a handler, sorted."""
        return sorted({name for name, _ in self._exact} | set(self._prefixes))

    def handlers(self) -> Iterable[Handler]:
        """All handlers, each once."""
        every = [*self._exact.values(), *(handler for pairs in self._prefixes.values() for _, handler in pairs)]
        return {id(handler): handler for handler in every}.values()

    def _find(self, queue: str, message_type: str) -> Handler | None:
        if message_type.endswith("*"):
            return next((h for prefix, h in self._prefixes.get(queue, ()) if prefix == message_type[:-1]), None)
        return self._exact.get((queue, message_type))


def _check(handler: Handler) -> None:
    """What is wrong in a decorator is said at import: found out by a message, it would take the worker down."""
    if not handler.type or "*" in handler.type[:-1]:
        raise StreamqError(f"handler type {handler.type!r}: a name, or a prefix that ends in `*`, like video_*")
    if not handler.queues:
        raise StreamqError(f"handler {handler.type}: name a queue")
    timeout: Any = handler.timeout  # any, since not everybody's code is type checked
    retries: Any = handler.max_retries
    if timeout is not None and not (isinstance(timeout, int | float) and timeout > 0):
        raise StreamqError(f"handler {handler.type}: timeout {timeout!r} should be seconds, more than 0")
    if retries is not None and not (isinstance(retries, int) and retries >= 0):
        raise StreamqError(f"handler {handler.type}: max_retries {retries!r} should be a number, 0 or more")
    if handler.isolate not in get_args(Isolate):
        raise StreamqError(f"handler {handler.type}: isolate {handler.isolate!r} should be 'process' or 'worker'")
    listed: tuple[tuple[str, Any], ...] = (("retry_on", handler.retry_on), ("never_retry", handler.never_retry))
    for name, kinds in listed:
        if not (isinstance(kinds, tuple) and all(isinstance(k, type) and issubclass(k, BaseException) for k in kinds)):
            raise StreamqError(f"handler {handler.type}: {name} should be a tuple of exception types, like (OSError,)")


def _place(handler: Handler) -> str:
    function = inspect.unwrap(handler.function)
    return f"{function.__module__}.{function.__qualname__}"
