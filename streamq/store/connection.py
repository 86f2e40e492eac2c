"""How Redis is reached: which clients there are, with which timeouts, and what their errors mean to us.

redis-py repeats a write up to ten times when a reply is lost, so one XADD can leave several entries. Its retries are
off: ours go by message id, through scripts that may be sent twice.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import redis
import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry as SyncRetry

from streamq.core.errors import RedisUnavailable
from streamq.core.failure import scrub

if TYPE_CHECKING:
    from streamq.store.keys import QueueKeys
    from streamq.store.scripts import Script
    from streamq.store.url import RedisURL

COMMAND_TIMEOUT = 5.0  # seconds a command may take
BEAT_TIMEOUT = 1.0  # seconds a beat may take: shorter than a beat's interval, so that a lost one is repeated in time
READ_MARGIN = 2.0  # seconds beyond BLOCK before a silent connection counts as dead

AsyncClient = Any  # redis.asyncio.Redis or RedisCluster: their stubs disagree on every command
SyncClient = Any

_FAILURES = (exceptions.RedisError, exceptions.RedisClusterException, OSError, asyncio.TimeoutError)
_REFUSALS = (exceptions.AuthenticationError, exceptions.NoPermissionError)


class GroupMissing(RedisUnavailable):
    """The consumer group is gone: the stream was deleted, renamed, or lost in a failover."""


class RedisRefused(RedisUnavailable):
    """Redis will not do this however often it is asked: a key of another type, missing rights, wrong credentials."""


class OutOfMemory(RedisUnavailable):
    """Redis refuses to store more."""


# What redis-py has no class for. Missing rights inside a script are told in words, which differ.
_MEANING = {
    "NOGROUP": GroupMissing, "UNBLOCKED": GroupMissing, "WRONGTYPE": RedisRefused, "ACL failure": RedisRefused,
    "can't run this command": RedisRefused,
}  # fmt: skip
_SAID = re.compile(rf"\b({'|'.join(_MEANING)})\b")


@contextlib.contextmanager
def redis_errors() -> Iterator[None]:
    """Turn whatever the client raises into ``RedisUnavailable``, the one kind of outage the upper floors know."""
    try:
        yield
    except _FAILURES as error:
        raise _meaning(error)(scrub(f"{type(error).__name__}: {error}")) from error


def _meaning(error: BaseException) -> type[RedisUnavailable]:
    if isinstance(error, exceptions.OutOfMemoryError):
        return OutOfMemory
    if isinstance(error, _REFUSALS) or isinstance(error.__cause__, _REFUSALS):  # redis-py wraps those of a connect
        return RedisRefused
    # Only what the server said: the path of a socket may hold such a word too.
    said = _SAID.search(str(error)) if isinstance(error, exceptions.ResponseError) else None
    return _MEANING[said[1]] if said else RedisUnavailable


class Connections:
    """The clients of one process for one Redis.

    Args:
        url: where it is.
        block: seconds that a reading connection waits for messages.
    """

    def __init__(self, url: "RedisURL", *, block: float = 2.0) -> None:
        self.url = url
        self.block = block
        self._commands: AsyncClient | None = None
        self._readers: list[AsyncClient] = []

    @property
    def clustered(self) -> bool:
        """Whether keys of several queues may lie on several nodes."""
        return self.url.kind == "cluster"

    @property
    def commands(self) -> AsyncClient:
        """The client for everything that answers at once."""
        if self._commands is None:
            self._commands = self._async_client(COMMAND_TIMEOUT)
        return self._commands

    def reader(self) -> AsyncClient:
        """A client of its own for one blocking reader: in a shared pool it would starve the others."""
        client = self._async_client(self.block + READ_MARGIN, single=True)
        # The stock parser folds fields into a dict, which hides a field that is given twice.
        client.set_response_callback("XREADGROUP", lambda reply, **_: reply)
        self._readers.append(client)
        return client

    def beats(self) -> SyncClient:
        """A synchronous client for the thread that keeps the leases: it must not depend on the event loop."""
        options: dict[str, Any] = {
            "socket_timeout": BEAT_TIMEOUT, "socket_connect_timeout": BEAT_TIMEOUT,
            "retry": SyncRetry(NoBackoff(), 0),
        }  # fmt: skip
        if self.url.kind == "cluster":
            return redis.RedisCluster.from_url(self.url.client_url, **options)
        if self.url.kind == "sentinel":
            sentinel: Any = redis.Sentinel  # its stubs are untyped
            return sentinel(self.url.hosts, **options).master_for(self.url.service, **self._behind_sentinel())
        return redis.Redis.from_url(self.url.client_url, **options)

    async def execute(self, *command: Any) -> Any:
        """Send one command.

        Raises:
            RedisUnavailable: Redis did not answer, or refused.
        """
        with redis_errors():
            return await self.commands.execute_command(*command)

    async def run(
        self, script: "Script", keys: "QueueKeys | Sequence[str]", args: Sequence[Any], extra: Sequence[str] = ()
    ) -> Any:
        """Run a script, by its digest where the server knows it already.

        Raises:
            RedisUnavailable: Redis did not answer, or refused.
        """
        command = script.command(keys, args, extra)
        with redis_errors():
            try:
                return await self.commands.execute_command("EVALSHA", script.sha, *command)
            except exceptions.NoScriptError:  # a restart, a failover, or another node of a Cluster
                return await self.commands.execute_command("EVAL", script.text, *command)

    async def aclose(self) -> None:
        """Close every connection."""
        for client in (self._commands, *self._readers):
            if client is not None:
                with contextlib.suppress(*_FAILURES):
                    await client.aclose()
        self._commands = None
        self._readers.clear()

    def _async_client(self, timeout: float, *, single: bool = False) -> AsyncClient:
        options: dict[str, Any] = {
            "socket_timeout": timeout, "socket_connect_timeout": COMMAND_TIMEOUT, "retry": AsyncRetry(NoBackoff(), 0),
        }  # fmt: skip
        if self.url.kind == "cluster":
            return redis.asyncio.RedisCluster.from_url(self.url.client_url, **options)
        if self.url.kind == "sentinel":
            sentinel: Any = redis.asyncio.Sentinel
            return sentinel(self.url.hosts, **options).master_for(self.url.service, **self._behind_sentinel())
        return redis.asyncio.Redis.from_url(self.url.client_url, single_connection_client=single, **options)

    def _behind_sentinel(self) -> dict[str, Any]:
        """The master's own credentials: the sentinels have others, or none."""
        credentials = {"username": self.url.username or None, "password": self.url.password or None}
        return {"db": self.url.db, **credentials}


@contextlib.asynccontextmanager
async def connected(url: "RedisURL", *, block: float = 2.0) -> AsyncIterator[Connections]:
    """Connections for the time of a block."""
    connections = Connections(url, block=block)
    try:
        yield connections
    finally:
        await connections.aclose()
