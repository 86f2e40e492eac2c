"""The beat of a worker, on a synchronous connection of its own: it must reach Redis when the event loop cannot."""

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from redis import exceptions

from streamq.core.message import Delivery
from streamq.store.connection import Connections
from streamq.store.keys import QueueKeys
from streamq.store.outages import redis_errors
from streamq.store.scripts import script


class Beat(NamedTuple):
    """What one beat learned.

    Attributes:
        now_ms: the time of Redis.
        lost: deliveries that are no longer ours under the token they were sent with.
        silent: consumers that have not beaten for too long.
    """

    now_ms: int
    lost: list[tuple[Delivery, int]]
    silent: list[str]


class BeatConnection:
    """Sends the beats of one process.

    Args:
        connections: how to reach Redis.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._client: Any = None

    def extend(
        self, keys: QueueKeys, group: str, consumer: str, *, lease_ms: int, silent_after_ms: int,
        deliveries: Sequence[Delivery],
        about: str = "",
    ) -> Beat:  # fmt: skip
        """Renew the leases of a queue's deliveries and say that their worker lives.

        Args:
            keys: of the queue.
            group: its consumer group.
            consumer: whose beat it is.
            lease_ms: idle time after which an entry may be taken over.
            silent_after_ms: a consumer that has not beaten for so long is silent.
            deliveries: what to renew.
            about: what the worker can do, as JSON; empty when nothing changed.

        Raises:
            RedisUnavailable: Redis did not answer within a second, or refused.
        """
        args: list[Any] = [group, consumer, lease_ms, silent_after_ms, about, len(deliveries)]
        held = [(delivery, delivery.token) for delivery in deliveries]
        for delivery, token in held:
            args += (delivery.level, delivery.entry_id, token)
        extend = script("extend")
        command = extend.command(keys, args)
        if self._client is not None and self._connections.is_stale(self._client):
            self.close()  # it would answer, and prove nothing
        with redis_errors():
            if self._client is None:
                self._client = self._connections.beats()
            try:
                now, lost, silent = self._client.execute_command("EVALSHA", extend.sha, *command)
            except exceptions.NoScriptError:
                now, lost, silent = self._client.execute_command("EVAL", extend.text, *command)
        return Beat(int(now), [held[index - 1] for index in lost], [name.decode() for name in silent])

    def close(self) -> None:
        """Close the connection; the next beat opens another."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(exceptions.RedisError, OSError):
                client.close()
