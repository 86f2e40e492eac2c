"""Decorating functions: what ``@app.handler`` returns, and how a decorated function publishes itself."""

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Concatenate, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, cast, overload

from streamq.core import codec
from streamq.core.codec import bind, decode_type
from streamq.core.config import Durability, Level
from streamq.core.context import Context
from streamq.core.errors import InvalidMessage, StreamqError
from streamq.core.options import OPTION_NAMES, Options
from streamq.core.receipt import Receipt
from streamq.core.registry import ErrorTypes, Executor, Handler, Isolate, Registry

Call = ParamSpec("Call")
Payload = ParamSpec("Payload")
Result_co = TypeVar("Result_co", covariant=True)
Result = TypeVar("Result")

Send = Callable[[str, bytes, Mapping[str, Any]], Awaitable[Receipt]]
SendSync = Callable[[str, bytes, Mapping[str, Any]], Receipt]

_NO_OPTIONS = Options()


class PublishOptions(TypedDict, total=False):
    """What may be said about a message beside its payload; see ``streamq.core.options.Options``."""

    priority: Level
    delay: float | timedelta
    delay_until: datetime
    max_retries: int
    timeout: float | timedelta
    expires: float | timedelta | datetime
    correlation_id: str
    created_by: str
    headers: Mapping[str, Any]
    idempotency_key: str
    message_id: str
    durable: Durability


class HandlerOptions(PublishOptions, total=False):
    """What may be said when a handler publishes itself: also which of its queues."""

    queue: str


class Publishing(Protocol[Payload]):
    """A handler with options chosen, ready to publish."""

    async def publish(self, *args: Payload.args, **kwargs: Payload.kwargs) -> Receipt:
        """Publish a call of the handler."""

    def publish_sync(self, *args: Payload.args, **kwargs: Payload.kwargs) -> Receipt:
        """The same without an event loop."""


class HandlerFunction(Protocol[Call, Payload, Result_co]):
    """A decorated function: still itself, and able to publish calls of itself."""

    def __call__(self, *args: Call.args, **kwargs: Call.kwargs) -> Result_co:
        """Run the function here and now, without Redis: for tests."""

    async def publish(self, *args: Payload.args, **kwargs: Payload.kwargs) -> Receipt:
        """Publish a call of this handler to its queue."""

    def publish_sync(self, *args: Payload.args, **kwargs: Payload.kwargs) -> Receipt:
        """The same without an event loop, by ``app.sync``: it blocks its thread until Redis has the message."""

    def options(self, **options: Unpack[HandlerOptions]) -> Publishing[Payload]:
        """Choose options for the next ``publish``."""


class HandlerDecorator(Protocol):
    """What ``@app.handler(...)`` is. A ``Context`` that comes first is known not to be part of the payload."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[Context, Payload], Result]
    ) -> HandlerFunction[Concatenate[Context, Payload], Payload, Result]: ...
    @overload
    def __call__(self, function: Callable[Payload, Result]) -> HandlerFunction[Payload, Payload, Result]: ...


def decorator(
    registry: Registry, send: Send, send_sync: SendSync, queues: Sequence[str], *, type: str | None,
    executor: Executor | None, isolate: Isolate, timeout: float | None, max_retries: int | None, retry_on: ErrorTypes,
    never_retry: ErrorTypes, publish_options: Mapping[str, Any],
) -> HandlerDecorator:  # fmt: skip
    """Make the decorator that registers one handler.

    Args:
        registry: where to.
        send: publishes JSON bytes to a queue.
        send_sync: the same without an event loop.
        queues: the queues it handles; publishing goes to the first.
        type: the type it handles; the function's name by default.
        executor: where it runs; by default coroutines on the loop and everything else in a thread.
        isolate: see ``StreamQ.handler``, as the next four.
        timeout: likewise.
        max_retries: likewise.
        retry_on: likewise.
        never_retry: likewise.
        publish_options: defaults of ``publish``.
    """
    check_option_names(publish_options)

    def decorate(function: Callable[..., Any]) -> Any:
        handler = Handler(
            type=type or function.__name__,
            queues=tuple(queues),
            function=function,
            binding=bind(function),
            executor=_executor(function, executor),
            isolate=isolate,
            timeout=timeout,
            max_retries=max_retries,
            retry_on=retry_on,
            never_retry=never_retry,
            publish_options=dict(publish_options),
        )
        if handler.executor == "process" and "<" in function.__qualname__:
            raise StreamqError(
                f"handler {handler.type}: a child process must be able to import it; define it at the top of a module"
            )
        if handler.executor == "process" and handler.binding.context is not None:
            raise StreamqError(
                f"handler {handler.type}: it runs in a child process, which has no Context; take that parameter away"
            )
        registry.add(handler)
        # The function stays what it is: it can be called, awaited, pickled by name and looked at with inspect.
        decorated = cast(Any, function)
        decorated.options = functools.partial(_Chosen, handler, send, send_sync)
        plain = decorated.options()
        decorated.publish, decorated.publish_sync = plain.publish, plain.publish_sync
        return function

    return cast(HandlerDecorator, decorate)


def check_option_names(options: Mapping[str, Any]) -> None:
    """Refuse what is no option of ``publish``.

    Raises:
        InvalidMessage: it names the unknown one and those that exist.
    """
    unknown = sorted(set(options) - set(OPTION_NAMES))
    if unknown:
        raise InvalidMessage(f"no such option: {', '.join(unknown)}; there are {', '.join(OPTION_NAMES)}")


def options_from(options: Mapping[str, Any]) -> Options:
    """The options of one publish, or of one for many.

    Raises:
        InvalidMessage: there is no such option.
    """
    if not options:
        return _NO_OPTIONS
    check_option_names(options)
    return Options(**options)


def encode_for(registry: Registry, queue: str, payload: object, where: str = "") -> bytes:
    """JSON bytes of a payload that is published by name, checked against its handler where this app has it.

    Args:
        registry: the app's handlers.
        queue: where it goes.
        payload: an object with a ``type``.
        where: what an error begins with.

    Raises:
        InvalidMessage: no worker could run it.
    """
    try:
        raw = codec.encode_payload(payload)
        handler = registry.resolve(queue, codec.decode_type(raw))
        if handler is not None:
            handler.binding.arguments(raw)
    except InvalidMessage as error:
        raise InvalidMessage(f"{where}{error}") from None
    except codec.DECODE_ERRORS as error:
        raise InvalidMessage(f"{where}the payload does not fit its handler: {error}") from None
    return raw


def encode_all_for(registry: Registry, queue: str, payloads: Iterable[object]) -> list[bytes]:
    """The same for many; an error says which of them it is about."""
    return [encode_for(registry, queue, payload, f"payload {number}: ") for number, payload in enumerate(payloads)]


class _Chosen:
    def __init__(self, handler: Handler, send: Send, send_sync: SendSync, **options: Any) -> None:
        check_option_names({name: value for name, value in options.items() if name != "queue"})
        self.publish = functools.partial(_publish, handler, send, options)
        self.publish_sync = functools.partial(_publish_sync, handler, send_sync, options)


async def _publish(handler: Handler, send: Send, chosen: Mapping[str, Any], /, *args: Any, **kwargs: Any) -> Receipt:
    return await send(*_call(handler, chosen, args, kwargs))


def _publish_sync(handler: Handler, send: SendSync, chosen: Mapping[str, Any], /, *args: Any, **kwargs: Any) -> Receipt:
    return send(*_call(handler, chosen, args, kwargs))


def _call(
    handler: Handler, chosen: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[str, bytes, Mapping[str, Any]]:
    """The queue, the payload and the options of a call of a handler."""
    options = {**handler.publish_options, **chosen}
    queue = options.pop("queue", handler.queues[0])
    payload = handler.binding.payload(handler.type, args, kwargs)
    _check_type(handler, decode_type(payload), queue)
    return queue, payload, options


def _check_type(handler: Handler, message_type: str, queue: str) -> None:
    """A parameter called ``type`` is the payload's type: it decides who gets the message."""
    prefix = handler.type.removesuffix("*")
    if handler.is_pattern and message_type == handler.type:
        raise InvalidMessage(
            f"{handler.type} handles many types: publish one by name, app.publish({queue!r}, {{'type': ...}})"
        )
    if not (message_type.startswith(prefix) if handler.is_pattern else message_type == handler.type):
        raise InvalidMessage(f"type {message_type!r} would not come to this handler, which is for {handler.type!r}")


def _executor(function: Callable[..., Any], wanted: Executor | None) -> Executor:
    is_async = inspect.iscoroutinefunction(function)
    if wanted is None:
        return "async" if is_async else "thread"
    if is_async != (wanted == "async"):
        hint = "a coroutine function runs on the event loop" if is_async else "only a coroutine function can be async"
        raise StreamqError(f"handler {function.__qualname__}: executor={wanted!r} does not fit; {hint}")
    return wanted
