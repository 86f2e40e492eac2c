"""Behaviour around a handler: an onion, the first one outermost."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from streamq.core.context import Context

CallNext = Callable[[], Awaitable[Any]]
Middleware = Callable[[Context, CallNext], Awaitable[Any]]


def wrap(layers: Sequence[Middleware], context: Context, handler: CallNext) -> CallNext:
    """Put the layers around one call of a handler.

    Args:
        layers: each gets the context and ``call_next``, and decides whether and when to await it.
        context: what the layers see.
        handler: the innermost call.
    """
    call = handler
    for layer in reversed(layers):
        call = _Layer(layer, context, call)
    return call


class _Layer:
    __slots__ = ("_call_next", "_context", "_layer")

    def __init__(self, layer: Middleware, context: Context, call_next: CallNext) -> None:
        self._layer, self._context, self._call_next = layer, context, call_next

    def __call__(self) -> Awaitable[Any]:
        return self._layer(self._context, self._call_next)
