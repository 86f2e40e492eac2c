"""How Redis is reached: which connections there are, and with which timeouts.

redis-py repeats a write up to ten times when a reply is lost, so one XADD can leave several entries. Its retries are
off: ours go by message id, through scripts that may be sent twice.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from redis import exceptions

from streamq.core.errors import RedisUnavailable
from streamq.store.calls import Calls
from streamq.store.clients import AsyncClient, AsyncSentinels, SyncClient, async_client, new_connection, sync_client
from streamq.store.masters import MasterWatch
from streamq.store.outages import FAILURES, redis_errors
from streamq.store.wire import Address, Line

if TYPE_CHECKING:
    from streamq.store.url import RedisURL

COMMAND_TIMEOUT = 5.0  # seconds a command may take
BEAT_TIMEOUT = 1.0  # seconds a beat may take: shorter than a beat's interval, so that a lost one is repeated in time
READ_MARGIN = 2.0  # seconds beyond BLOCK before a silent connection counts as dead


class Connections(Calls):
    """The clients of one process for one Redis.

    Args:
        url: where it is.
        block: seconds that a reading connection waits for messages.
    """

    def __init__(self, url: "RedisURL", *, block: float = 2.0) -> None:
        self.url = url
        self.block = block
        self._commands: AsyncClient | None = None
        self._lines: dict[Address, Line] = {}  # for scripts: one for each node of a Cluster, else one
        self._readers: set[Line] = set()
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
            self._commands = self._async_client()
        return self._commands

    def reader(self, key: str) -> Line:
        """A line of its own for one blocking reader: on a shared one everybody would wait with it.

        Args:
            key: of what it reads; decides which node of a Cluster.
        """

        async def connect() -> Any:
            return await self._connect(await self.node_of(key))

        line = Line(connect, self.block + READ_MARGIN)
        self._readers.add(line)
        return line

    async def drop_reader(self, line: Line) -> None:
        """Close what ``reader`` made, and keep it no longer: an app may run one worker after the other."""
        await line.aclose()
        self._readers.discard(line)

    def beats(self) -> SyncClient:
        """A synchronous client for a thread that keeps leases: it must not depend on the event loop."""
        return sync_client(self.url, BEAT_TIMEOUT, self._watch)

    def is_stale(self, client: AsyncClient | SyncClient) -> bool:
        """Whether a client is connected to a master that was replaced. For any thread."""
        return self._watch is not None and self._watch.has_replaced(client.connection_pool.master_address)

    async def _evaluate(self, word: str, script: str, count: int, key: str, *rest: Any) -> Any:
        line = await self._line_to(key)
        self.leave_replaced(line)
        command = (word, script, count, key, *rest)
        try:
            await line.open()
        except exceptions.ConnectionError:
            if not self.clustered:
                raise
            return await self.commands.execute_command(*command)  # it finds out who has the key now
        try:
            return await line.send(*command)
        except exceptions.ReadOnlyError:
            line.close()  # as in `_send`
            raise
        except exceptions.AskError:  # a slot that has moved: nothing was done here
            return await self.commands.execute_command(*command)

    async def _line_to(self, key: str) -> Line:
        node = await self.node_of(key)
        where = None if node is None else (node.host, node.port)
        line = self._lines.get(where)
        if line is None:
            line = self._lines[where] = Line(lambda: self._connect(node), COMMAND_TIMEOUT)
        return line

    async def _connect(self, node: Any) -> Any:
        """A connection of redis-py for a line: to a node of a Cluster, or to where all is."""
        connection = new_connection(self.commands.connection_pool if node is None else node)
        try:
            await connection.connect()
        except BaseException:  # whoever opens it may be cancelled meanwhile
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def _send(self, *command: Any) -> Any:
        await self.leave_old_master(self.commands)
        try:
            return await self.commands.execute_command(*command)
        except exceptions.ReadOnlyError:
            # A master that was demoted: its name or its sentinels lead whoever connects anew to another by now.
            await self.commands.aclose()
            raise

    async def together(self, key: str, *commands: Sequence[Any]) -> list[Any]:
        """See ``Calls``."""
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

    def leave_replaced(self, line: Line) -> None:
        """The same for a line."""
        if self._watch is not None and self._watch.has_replaced(line.address):
            line.close()

    async def node_of(self, key: str) -> Any:
        """Which node of a Cluster has a key, as far as known; None outside of a Cluster."""
        if not self.clustered:
            return None
        with redis_errors():
            await self.commands.initialize()
            return self.commands.get_node_from_key(key)

    async def unblock(self, client_id: int, address: Address) -> None:
        """End the wait of a blocked connection.

        Args:
            client_id: of that connection.
            address: where it leads.

        Raises:
            RedisUnavailable: Redis did not answer.
        """
        with redis_errors():
            there = {"target_nodes": self.commands.get_node(*address)} if self.clustered and address else {}
            await self.commands.execute_command("CLIENT", "UNBLOCK", client_id, **there)

    async def aclose(self) -> None:
        """Close every connection."""
        if self._watch is not None:
            await asyncio.to_thread(self._watch.stop)
        lines = [*self._lines.values(), *self._readers]
        for line in lines:
            line.close()
        if self._commands is not None:
            with contextlib.suppress(*FAILURES):
                await self._commands.aclose()
        for line in lines:  # last: whoever is being cancelled gets no further than to the first wait
            await line.aclose()
        self._commands = None
        self._lines.clear()
        self._readers.clear()

    async def _follow(self) -> None:
        for line in (*self._lines.values(), *self._readers):
            self.leave_replaced(line)
        if self._commands is not None:
            await self.leave_old_master(self._commands)

    def _async_client(self) -> AsyncClient:
        if self._watch is not None:
            self._watch.start()
        return async_client(self.url, COMMAND_TIMEOUT, sentinels=self._sentinels)


@contextlib.asynccontextmanager
async def connected(url: "RedisURL", *, block: float = 2.0) -> AsyncIterator[Connections]:
    """Connections for the time of a block."""
    connections = Connections(url, block=block)
    try:
        yield connections
    finally:
        await connections.aclose()
