"""What the store asks of Redis, however it gets there.

What is written on top of it is written once, as coroutines. Those of an event loop are suspended until the reply is
there; those of ``store.blocking`` have it when they return, so that a whole call runs through in one go.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from redis import exceptions

from streamq.store.outages import redis_errors

if TYPE_CHECKING:
    from streamq.store.keys import QueueKeys
    from streamq.store.scripts import Script


class Calls:
    """Sends commands and runs scripts."""

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
                return await self._evaluate("EVALSHA", script.sha, *command)
            except exceptions.NoScriptError:  # a restart, a failover, or another node of a Cluster
                return await self._evaluate("EVAL", script.text, *command)

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
        raise NotImplementedError

    async def _send(self, *command: Any) -> Any:
        raise NotImplementedError

    async def _evaluate(self, word: str, script: str, count: int, key: str, *rest: Any) -> Any:
        """Run a script like any other command, unless there is a shorter way."""
        return await self._send(word, script, count, key, *rest)
