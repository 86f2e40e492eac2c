"""Every error that streamq raises, and the four exceptions a handler may raise to decide its own fate."""

from typing import Any

from streamq.core.receipt import Receipt


class StreamqError(Exception):
    """The root of all errors raised by streamq."""


def cause_of(error: BaseException) -> BaseException:
    """The one error inside of groups that hold nothing else: task groups wrap whatever leaves them."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


class ConfigError(StreamqError):
    """The configuration cannot be used. The text names the place, what is wrong and what would be right."""


class RedisUnavailable(StreamqError):
    """No Redis could be found or reached. The text names the ways out."""


class InvalidMessage(StreamqError):
    """A message that no worker could accept: refused at publish, before anything is written."""


class MessageTooLarge(InvalidMessage):
    """The fields of the entry together are larger than the queue's ``max_size``."""


class QueueFull(StreamqError):
    """The queue holds ``max_length`` messages, or Redis is out of memory, and ``on_full`` does not make room.

    After ``publish_many``, ``receipts`` holds what was accepted nevertheless, None in the place of what was not.
    """

    def __init__(self, text: str, receipts: tuple[Receipt | None, ...] = ()) -> None:
        super().__init__(text)
        self.receipts = receipts


class PublishUnknown(StreamqError):
    """Redis did not answer, so the message may or may not have been accepted.

    Publishing again with ``message_id=error.id`` is safe within ``seen_window`` (5 minutes by default).
    """

    def __init__(self, message_id: str, reason: str = "") -> None:
        super().__init__(f"Redis did not confirm message {message_id}{': ' if reason else ''}{reason}")
        self.id = message_id


class DurabilityUnconfirmed(StreamqError):
    """The message was accepted, but not what ``durable`` asks for: if Redis fails now, it may be lost.

    Publishing again with ``message_id=error.id`` is safe within ``seen_window`` (5 minutes by default): it adds nothing
    and asks for the confirmation once more.

    After ``publish_many``, ``ids`` are those of all messages that were not confirmed, and ``receipts`` holds what was
    accepted, None in the place of what was not.
    """

    def __init__(
        self, message_id: str, reason: str = "", *, ids: tuple[str, ...] = (), receipts: tuple[Receipt | None, ...] = ()
    ) -> None:
        super().__init__(message_id, reason)
        self.id = message_id
        self.ids = ids or (message_id,)
        self.reason = reason
        self.receipts = receipts

    def __str__(self) -> str:
        more = f" and {len(self.ids) - 1} more" if len(self.ids) > 1 else ""
        return (
            f"message {self.id}{more} was accepted, but is not confirmed as durable: {self.reason or 'Redis did not'}. "
            f"Publishing it again with its message_id adds nothing, and asks once more"
        )


class _Word(Exception):
    """What a handler says about its fate. It leaves a child process whole, whatever a subclass's ``__init__`` takes."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.args), vars(self)


def _rebuilt(kind: type[_Word], args: tuple[Any, ...]) -> _Word:
    return kind.__new__(kind, *args)


class Retry(_Word):
    """Raised by a handler: this attempt failed, run the message again.

    Args:
        after: seconds to wait, at most about 30 years; None leaves it to the retry policy of the queue.
        reason: kept in the logs, and in the dead letter when this was the last attempt.
    """

    def __init__(self, after: float | None = None, reason: str = "") -> None:
        super().__init__(reason)
        self.after = after
        self.reason = reason


class Snooze(_Word):
    """Raised by a handler: not now; run the message again after ``after`` seconds. No attempt is spent."""

    def __init__(self, after: float, reason: str = "") -> None:
        super().__init__(reason)
        self.after = after
        self.reason = reason


class Reject(_Word):
    """Raised by a handler: this message can never succeed. It becomes a dead letter now."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class Drop(_Word):
    """Raised by a handler: this message is not needed any more. It is acknowledged and counted as dropped."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
