"""streamq: an async worker framework on Redis Streams that loses nothing.

The public names, imported when they are first used: ``streamq --help`` must not load a Redis client.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamq.app import StreamQ
    from streamq.core.context import Context
    from streamq.core.errors import (
        ConfigError,
        Drop,
        DurabilityUnconfirmed,
        InvalidMessage,
        MessageTooLarge,
        PublishUnknown,
        QueueFull,
        RedisUnavailable,
        Reject,
        Retry,
        Snooze,
        StreamqError,
    )
    from streamq.core.message import Message, Metadata
    from streamq.core.receipt import Receipt

__all__ = [
    "ConfigError",
    "Context",
    "Drop",
    "DurabilityUnconfirmed",
    "InvalidMessage",
    "Message",
    "MessageTooLarge",
    "Metadata",
    "PublishUnknown",
    "QueueFull",
    "Receipt",
    "RedisUnavailable",
    "Reject",
    "Retry",
    "Snooze",
    "StreamQ",
    "StreamqError",
]

_HOMES = {
    "StreamQ": "streamq.app",
    "Context": "streamq.core.context",
    "Message": "streamq.core.message",
    "Metadata": "streamq.core.message",
    "Receipt": "streamq.core.receipt",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'streamq' has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, "streamq.core.errors")), name)
    globals()[name] = value
    return value
