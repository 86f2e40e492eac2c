"""What a handler may know about the message it runs for."""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from streamq.core.message import Message
from streamq.core.receipt import Receipt

#: The message whose handler runs here: log lines of the user's own code get its ids from it.
current_message: ContextVar[Message | None] = ContextVar("streamq_message", default=None)

PublishCall = Callable[..., Awaitable[Receipt]]


class Context:
    """Handed to every parameter that is annotated ``Context``, and to middleware.

    Attributes:
        message: the verified message.
        attempt: which run this is: 1 for the first, one more after each failure.
        deadline: the end of its time limit, in seconds of ``time.monotonic()``.
        state: what the app's lifespan yielded.
        log: a logger that carries the ids of the message.
    """

    __slots__ = ("_publish", "attempt", "deadline", "log", "message", "state")

    def __init__(self, message: Message, *, deadline: float, state: Any, log: Any, publish: PublishCall) -> None:
        self.message = message
        self.attempt = message.retry_count + 1
        self.deadline = deadline
        self.state = state
        self.log = log
        self._publish = publish

    async def publish(self, queue: str, payload: object, /, **options: Any) -> Receipt:
        """Publish a message that belongs to the same case: it keeps this one's correlation id.

        Args:
            queue: where to.
            payload: an object with a ``type``.
            **options: those of ``StreamQ.publish``.

        Returns:
            What ``StreamQ.publish`` returns.
        """
        options.setdefault("correlation_id", self.message.metadata.correlation_id or self.message.id)
        return await self._publish(queue, payload, **options)
