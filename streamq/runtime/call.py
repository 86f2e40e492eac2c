"""Calling a handler: middleware around it, in the place that its decorator names. In a worker and in a child alike."""

from collections.abc import Awaitable
from typing import Any

from streamq.core import middleware
from streamq.core.context import Context, current_message
from streamq.core.policy import Admission
from streamq.runtime.run import Surroundings


def call(admission: Admission, deadline: float, around: Surroundings, *, fresh: bool = False) -> Awaitable[Any]:
    """Call the handler of a message.

    Args:
        admission: what runs.
        deadline: the end of its time limit, in seconds of ``time.monotonic()``.
        around: what it finds there.
        fresh: a handler that runs in a child process gets one that has run nothing else.

    Returns:
        What is to be awaited until the handler has come to its end.

    Raises:
        TypeError: it cannot be called so. Whatever the handler raises comes from what is awaited.
    """
    message, handler, arguments = admission
    current_message.set(message)
    context_name = handler.binding.context
    if context_name is None and not around.layers:
        return _execute(admission, arguments, around, fresh=fresh)
    context = Context(
        message, deadline=deadline, state=around.state, log=around.logger_for(message), publish=around.publish
    )
    if context_name is not None:
        arguments[context_name] = context
    return middleware.wrap(around.layers, context, lambda: _execute(admission, arguments, around, fresh=fresh))()


def _execute(
    admission: Admission, arguments: dict[str, Any], around: Surroundings, *, fresh: bool
) -> Awaitable[Any]:  # fmt: skip
    handler = admission.handler
    if handler.executor == "async":
        called: Awaitable[Any] = handler.function(**arguments)
        return called
    if handler.executor == "thread":
        return around.executors.thread(handler.function, arguments)
    return around.executors.process(handler.function, admission.message.payload, fresh=fresh)
