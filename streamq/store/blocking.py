"""How Redis is reached without an event loop.

Its methods are coroutines, as what is written on top of them is, but none of them is ever suspended: they block their
thread instead. ``finish`` runs such a coroutine to its end. So there is one publisher, not one for each way of waiting.
"""

import threading
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from redis import exceptions

from streamq.store.blocking_wire import BlockingWire
from streamq.store.calls import Calls
from streamq.store.clients import SyncClient, new_connection, sync_client
from streamq.store.connection import COMMAND_TIMEOUT
from streamq.store.masters import MasterWatch
from streamq.store.outages import redis_errors
from streamq.store.url import RedisURL

T = TypeVar("T")


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that is never suspended.

    Raises:
        RuntimeError: it was, which is a bug: nobody would wake it.
    """
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError(f"{coroutine!r} waits for an event loop, and there is none")


class BlockingConnections(Calls):
    """The connections of one process for one Redis, for any number of threads.

    Each call has a wire for itself; wires that rest are used again. Only a Cluster is left to redis-py, which knows how
    to follow its redirections.

    Args:
        url: where it is.
    """

    def __init__(self, url: RedisURL) -> None:
        self.clustered = url.kind == "cluster"
        self._url = url
        self._resting: list[BlockingWire] = []
        self._closed = False
        self._watch = MasterWatch(url.hosts, url.service) if url.kind == "sentinel" else None
        self._client: SyncClient = None
        self._making = threading.Lock()

    async def together(self, key: str, *commands: Sequence[Any]) -> list[Any]:
        """See ``Calls``."""
        with redis_errors():
            return self._together_on_node(key, commands) if self.clustered else self._exchange(commands)

    def close_resting(self) -> None:
        """Close what nobody uses just now.

        It takes no lock, and Redis hears nothing of it: a child process that was forked may do so with its copies.
        """
        while (wire := self._rested()) is not None:
            wire.close()

    def close(self) -> None:
        """Close every connection; what is in use, as soon as it is not."""
        self._closed = True
        if self._watch is not None:
            self._watch.stop()
        self.close_resting()
        with self._making:
            if self._client is not None:
                self._client.close()

    async def _send(self, *command: Any) -> Any:
        if self.clustered:
            return self._made_client().execute_command(*command)
        (reply,) = self._exchange((command,))
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _exchange(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        wire = self._wire()
        replies = wire.send(commands)
        if exceptions.ReadOnlyError in map(type, replies):
            wire.close()  # a master that was demoted: whoever connects anew is led to another
        else:
            self._resting.append(wire)
            if self._closed:
                self.close_resting()
        return replies

    def _wire(self) -> BlockingWire:
        while (wire := self._rested()) is not None:
            if wire.is_quiet() and not (self._watch is not None and self._watch.has_replaced(wire.address)):
                return wire
            wire.close()
        connection = new_connection(self._made_client().connection_pool)
        connection.connect()
        return BlockingWire(connection)

    def _rested(self) -> BlockingWire | None:
        try:
            return self._resting.pop()  # first asked whether there is one, another thread may take it in between
        except IndexError:
            return None

    def _together_on_node(self, key: str, commands: Sequence[Sequence[Any]]) -> list[Any]:
        client = self._made_client()
        batch = client.get_redis_connection(client.get_node_from_key(key)).pipeline(transaction=False)
        for command in commands:
            batch.execute_command(*command)
        try:
            replies = batch.execute(raise_on_error=False)
            for moved in (reply for reply in replies if isinstance(reply, exceptions.AskError)):
                raise moved
        except (exceptions.AskError, exceptions.ConnectionError, exceptions.TimeoutError):
            client.execute_command("EXISTS", key)  # learns where the key is now
            raise
        return list(replies)

    def _made_client(self) -> SyncClient:
        with self._making:
            if self._client is None:
                if self._watch is not None:
                    self._watch.start()
                self._client = sync_client(self._url, COMMAND_TIMEOUT, self._watch)
            return self._client
