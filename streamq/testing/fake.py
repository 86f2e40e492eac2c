"""A stand-in for Redis inside this process, for fast tests: fakeredis, taught what the scripts need.

It is not Redis. XREADGROUP with BLOCK does not block, memory never runs out, XAUTOCLAIM looks at more entries than a
server would, and INFO, CONFIG and WAIT are missing. What must hold is tested on a `PrivateServer`.
"""

from collections.abc import Sequence
from typing import Any, cast

import fakeredis

from streamq.store.clients import AsyncClient, SyncClient
from streamq.store.connection import Connections
from streamq.store.url import parse_url
from streamq.store.wire import Line, Wire

_CONFIRMED: dict[str, Any] = {
    "HELLO": {"server": "fakeredis", "version": "7.0"}, "CONFIG": {"appendfsync": "always"}, "WAITAOF": [1, 0],
    "ROLE": ["master", 0, [["replica", "0", "0"]]], "WAIT": 1,
}  # fmt: skip


class FakeConnections(Connections):
    """Connections to a fake server.

    Args:
        server: the fake; by default a new one. Share it to let several processes be played in one.
        block: seconds that a reading connection waits for messages.
    """

    def __init__(self, server: fakeredis.FakeServer | None = None, *, block: float = 2.0) -> None:
        super().__init__(parse_url("redis://localhost"), block=block)
        self.server = server or fakeredis.FakeServer(server_type="redis", version=(7, 0))

    def beats(self) -> SyncClient:
        """As of a real server."""
        return _plain(fakeredis.FakeRedis(server=self.server))

    async def together(self, key: str, *commands: Sequence[Any]) -> list[Any]:  # noqa: ARG002 - there is one node
        """One after the other. What the fake does not know is answered as by a server that confirms everything."""
        return [
            _CONFIRMED[command[0]] if command[0] in _CONFIRMED else await self.execute(*command) for command in commands
        ]

    def _async_client(self) -> AsyncClient:
        return _plain(fakeredis.FakeAsyncRedis(server=self.server))

    def reader(self, key: str) -> Line:  # noqa: ARG002 - there is one node
        """As of a real server; there is nothing to wait for."""
        return _FakeLine(self.commands)

    async def _line_to(self, key: str) -> Line:  # noqa: ARG002 - likewise
        return _FakeLine(self.commands)


class _FakeLine(Line):
    """Commands for the fake, which has no connections."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        client.set_response_callback("XREADGROUP", lambda reply, **_: list(reply.items()) if reply else None)

    address = None

    async def open(self) -> Wire:
        return cast("Wire", self)

    def close(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    async def send(self, *command: Any) -> Any:
        return await self._client.execute_command(*command)


def _plain(client: Any) -> Any:
    """Strip the first line of scripts, `#!lua`, which fakeredis refuses."""
    send = client.execute_command

    def execute_command(name: str, *args: Any, **options: Any) -> Any:
        if name == "EVAL":
            args = (args[0].partition("\n")[2], *args[1:])
        return send(name, *args, **options)

    client.execute_command = execute_command
    return client
