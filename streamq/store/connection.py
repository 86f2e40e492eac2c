"""How Redis is reached: which clients there are, with which timeouts, and what their errors mean to us.

redis-py repeats a write up to ten times when a reply is lost, so one XADD can leave several entries. Its retries are
off: ours go by message id, through scripts that may be sent twice.
"""

import asyncio
import contextlib
import re
import traceback
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from redis import exceptions

from streamq.core.errors import RedisUnavailable
from streamq.core.failure import scrub
from streamq.store.clients import AsyncClient, AsyncSentinels, SyncClient, async_client, sync_client
from streamq.store.masters import MasterWatch

if TYPE_CHECKING:
    from streamq.store.keys import QueueKeys
    from streamq.store.scripts import Script
    from streamq.store.url import RedisURL

COMMAND_TIMEOUT = 5.0  # seconds a command may take
BEAT_TIMEOUT = 1.0  # seconds a beat may take: shorter than a beat's interval, so that a lost one is repeated in time
READ_MARGIN = 2.0  # seconds beyond BLOCK before a silent connection counts as dead

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
    except (AttributeError, LookupError) as error:
        if not _is_of_client(error):
            raise
        raise RedisUnavailable(scrub(f"{type(error).__name__}: {error}")) from error
    except RuntimeError as error:
        # uvloop's word for a write to a connection that was reset a moment ago, which redis-py lets through.
        if "unable to perform operation on" not in str(error):
            raise
        raise RedisUnavailable(f"the connection was closed: {error}") from error


def _is_of_client(error: BaseException) -> bool:
    """Whether redis-py stumbled over itself: it closes connections while other tasks open them, and uses None then."""
    *_, innermost = traceback.walk_tb(error.__traceback__)
    return str(innermost[0].f_globals["__name__"]).startswith("redis.")


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
        self._readers: set[AsyncClient] = set()
        self._watch = MasterWatch(url.hosts, url.service, self._follow) if url.kind == "sentinel" else None
        self._sentinels = AsyncSentinels(self._watch) if self._watch is not None else None

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
        self._readers.add(client)
        return client

    async def drop_reader(self, client: AsyncClient) -> None:
        """Close what ``reader`` made, and keep it no longer: an app may run one worker after the other."""
        with contextlib.suppress(*_FAILURES):
            await client.aclose()
        self._readers.discard(client)

    def beats(self) -> SyncClient:
        """A synchronous client for a thread that keeps leases: it must not depend on the event loop."""
        return sync_client(self.url, BEAT_TIMEOUT, self._watch)

    def is_stale(self, client: AsyncClient | SyncClient) -> bool:
        """Whether a client is connected to a master that was replaced. For any thread."""
        master = None if self._watch is None else self._watch.master
        return master is not None and client.connection_pool.master_address not in {None, master}

    async def execute(self, *command: Any) -> Any:
        """Send one command.

        Raises:
            RedisUnavailable: Redis did not answer, or refused.
        """
        with redis_errors():
            return await self._send(*command)

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
                return await self._send("EVALSHA", script.sha, *command)
            except exceptions.NoScriptError:  # a restart, a failover, or another node of a Cluster
                return await self._send("EVAL", script.text, *command)

    async def _send(self, *command: Any) -> Any:
        await self.leave_old_master(self.commands)
        try:
            return await self.commands.execute_command(*command)
        except exceptions.ReadOnlyError:
            # A master that was demoted: its name or its sentinels lead whoever connects anew to another by now.
            await self.commands.aclose()
            raise

    async def together(self, key: str, *commands: Sequence[Any]) -> list[Any]:
        """Send commands over one connection, in one batch, to the node that holds a key.

        Args:
            key: decides which node of a Cluster.
            *commands: their words.

        Returns:
            A reply for each; the error of what Redis refused.

        Raises:
            RedisUnavailable: Redis did not answer, or the key has just moved. Some of it may have been done.
        """
        with redis_errors():
            if self.clustered:
                return await self._together_on_node(key, commands)
            await self.leave_old_master(self.commands)
            batch = self.commands.pipeline(transaction=False)
            for command in commands:
                batch.execute_command(*command)
            replies = await batch.execute(raise_on_error=False)
            if any(isinstance(reply, exceptions.ReadOnlyError) for reply in replies):
                await self.commands.aclose()  # as in `_send`
            return list(replies)

    async def _together_on_node(self, key: str, commands: Sequence[Sequence[Any]]) -> list[Any]:
        client = self.commands
        await client.initialize()
        batch, node = client.pipeline(), client.get_node_from_key(key)
        for command in commands:
            batch.execute_command(*command, target_nodes=node)
        # Redirections are not followed: they would tear the commands apart, each to a node of its own.
        replies = await batch.execute(raise_on_error=False, allow_redirections=False)
        for reply in replies:
            if isinstance(reply, exceptions.AskError | exceptions.ConnectionError | exceptions.TimeoutError):
                await client.execute_command("EXISTS", key)  # learns where the key is now
                raise reply
        return list(replies)

    async def leave_old_master(self, client: AsyncClient) -> None:
        """Drop a client's connections if they lead to a master that was replaced: the next command makes new ones.

        What waits there for a reply is told that the connection was lost.
        """
        if self.is_stale(client):
            with contextlib.suppress(RedisUnavailable), redis_errors():
                await client.connection_pool.disconnect()

    async def node_of(self, client: AsyncClient, key: str) -> Any:
        """Which node of a Cluster a client asks for a key; None outside of a Cluster."""
        if not self.clustered:
            return None
        await client.initialize()
        return client.get_node_from_key(key)

    async def unblock(self, client_id: int, node: Any = None) -> None:
        """End the wait of a blocked connection.

        Args:
            client_id: of that connection.
            node: where it waits, as ``node_of`` told.

        Raises:
            RedisUnavailable: Redis did not answer.
        """
        there = {} if node is None else {"target_nodes": self.commands.get_node(node.host, node.port)}
        with redis_errors():
            await self.commands.execute_command("CLIENT", "UNBLOCK", client_id, **there)

    async def aclose(self) -> None:
        """Close every connection."""
        if self._watch is not None:
            await self._watch.stop()
        for client in (self._commands, *self._readers):
            if client is not None:
                with contextlib.suppress(*_FAILURES):
                    await client.aclose()
        self._commands = None
        self._readers.clear()

    async def _follow(self) -> None:
        for client in (self._commands, *self._readers):
            if client is not None:
                await self.leave_old_master(client)

    def _async_client(self, timeout: float, *, single: bool = False) -> AsyncClient:
        if self._watch is not None:
            self._watch.start()
        return async_client(self.url, timeout, COMMAND_TIMEOUT, single=single, sentinels=self._sentinels)


@contextlib.asynccontextmanager
async def connected(url: "RedisURL", *, block: float = 2.0) -> AsyncIterator[Connections]:
    """Connections for the time of a block."""
    connections = Connections(url, block=block)
    try:
        yield connections
    finally:
        await connections.aclose()
