"""The twin of ``store.wire`` for threads: a socket on which one command, or one batch, waits for its replies."""

import select
import socket
from collections.abc import Sequence
from typing import Any

import hiredis
from redis import exceptions

from streamq.store.wire import NOTHING, address_of, new_reader

CHUNK = 64 * 1024  # bytes read at once


class BlockingWire:
    """One open connection, for one thread at a time.

    Args:
        connection: of redis-py, connected, which is not to be used any more. Its timeout stays.

    Attributes:
        address: host and port, where it has some.
    """

    def __init__(self, connection: Any) -> None:
        self.address = address_of(connection)
        self._socket: socket.socket = connection._sock  # noqa: SLF001 - redis-py has no word for this
        connection._sock = None  # noqa: SLF001 - it would close it when it is forgotten
        self._replies = new_reader()
        self._news = select.poll()
        self._news.register(self._socket, select.POLLIN)

    def send(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Send commands in one write and wait for all replies.

        Args:
            commands: the words of each: texts, bytes and whole numbers.

        Returns:
            A reply for each; an error of redis-py where Redis refuses.

        Raises:
            RedisError, OSError: Redis did not answer. The wire is closed.
        """
        try:
            self._socket.sendall(b"".join([hiredis.pack_command(tuple(command)) for command in commands]))
            return [self._receive() for _ in commands]
        except hiredis.ProtocolError as error:  # not Redis
            self.close()
            raise exceptions.ConnectionError(f"an answer that makes no sense: {error}") from error
        except BaseException:  # Ctrl-C too: the reply that is still to come would be taken for that of the next command
            self.close()
            raise

    def is_quiet(self) -> bool:
        """Whether nothing has come that nobody asked for: the end of the connection, as a rule."""
        return not self._news.poll(0)

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def _receive(self) -> Any:
        while (reply := self._replies.gets()) is NOTHING:
            data = self._socket.recv(CHUNK)
            if not data:
                raise exceptions.ConnectionError("the connection was lost: closed by Redis")
            self._replies.feed(data)
        return reply
