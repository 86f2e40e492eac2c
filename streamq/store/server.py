"""What the server is and what it lets us do: the questions of ``streamq doctor``."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from streamq.core.errors import RedisUnavailable
from streamq.store.connection import COMMAND_TIMEOUT, READ_MARGIN, Connections
from streamq.store.keys import Keyspace
from streamq.store.replies import member, pairs, seconds, text
from streamq.store.scripts import script

SETTINGS = ("maxmemory-policy", "maxmemory", "appendonly", "appendfsync", "save", "timeout", "min-replicas-to-write")
PINGS = 5
LAST_ID = "18446744073709551615-18446744073709551615"  # after which a stream takes no more entries, ever

KEY_TYPES = {
    "critical": "stream", "high": "stream", "normal": "stream", "low": "stream", "delayed": "zset", "messages": "hash",
    "ledger": "hash", "seen_0": "set", "seen_1": "set", "workers": "hash", "dead": "stream",
}  # fmt: skip

# What a worker sends itself and through its scripts; the words in braces are keys of a queue. Nothing of it is run.
NEEDED = tuple(
    tuple(line.split())
    for line in """
    XADD {normal} * f v
    XREADGROUP GROUP g c COUNT 1 BLOCK 1 STREAMS {critical} {high} {normal} {low} > > > >
    XACK {normal} g 0-1
    XDEL {normal} 0-1
    XCLAIM {normal} g c 0 0-1 JUSTID
    XAUTOCLAIM {normal} g c 0 0-0
    XPENDING {normal} g
    XRANGE {normal} - +
    XLEN {normal}
    XINFO STREAM {normal}
    XINFO GROUPS {normal}
    XINFO CONSUMERS {normal} g
    XGROUP CREATE {normal} g 0 MKSTREAM
    XGROUP DELCONSUMER {normal} g c
    XADD {dead} * f v
    ZADD {delayed} 1 m
    ZREM {delayed} m
    ZCARD {delayed}
    ZSCORE {delayed} m
    ZRANGE {delayed} 0 1
    ZRANGEBYSCORE {delayed} 0 1
    HSET {messages} m v
    HGET {messages} m
    HDEL {messages} m
    HLEN {messages}
    HINCRBY {ledger} accepted 1
    HGETALL {workers}
    SADD {seen_0} m
    SISMEMBER {seen_0} m
    SCARD {seen_0}
    PEXPIREAT {seen_0} 1
    GET {once}
    SET {once} v PX 1
    EXISTS {normal}
    TYPE {normal}
    SADD {names} q
    TIME
    PING
    CLIENT ID
    CLIENT UNBLOCK 1
    EVALSHA 0 0
    """.strip().splitlines()
)


class ServerFacts(NamedTuple):
    """What a server says of itself.

    Attributes:
        info: INFO; empty when it may not be asked.
        settings: those that CONFIG GET told.
        refused: commands that may not be sent.
    """

    info: dict[str, Any]
    settings: dict[str, str]
    refused: list[str]


class Timeouts(NamedTuple):
    """How long this machine waits.

    Attributes:
        command: seconds for a command.
        read: seconds for a read that blocks.
        block: seconds it blocks at most.
    """

    command: float
    read: float
    block: float


class Server:
    """Asks the server, as far as we may.

    Args:
        connections: how to reach it.
        keyspace: how keys are spelled.
    """

    def __init__(self, connections: Connections, keyspace: Keyspace) -> None:
        self._connections, self._keyspace = connections, keyspace

    async def facts(self) -> ServerFacts:
        """What it says of itself; what it may not be asked is missing."""
        refused: list[str] = []
        info: dict[str, Any] = {}
        settings: dict[str, str] = {}
        try:
            info = await self.info()
        except RedisUnavailable:
            refused.append("INFO")
        for name in SETTINGS:
            try:
                reply = await self._connections.execute("CONFIG GET", name)  # one word: redis-py would look for a slot
                settings.update({text(key): text(value) for key, value in pairs(reply)})
            except RedisUnavailable:
                refused.append(f"CONFIG GET {name}")
        return ServerFacts(info, settings, refused)

    async def info(self) -> dict[str, Any]:
        """INFO; of a Cluster nothing, since each node has its own.

        Raises:
            RedisUnavailable: it may not be asked.
        """
        found = await self._connections.execute("INFO")
        return found if isinstance(found, dict) else {}

    async def latency(self) -> float:
        """Seconds for one round trip: the median of a few."""
        taken = []
        for _ in range(PINGS):
            started = time.perf_counter()
            await self._connections.execute("PING")
            taken.append(time.perf_counter() - started)
        return sorted(taken)[PINGS // 2]

    async def clock_offset(self) -> float:
        """Seconds that this machine's clock is ahead of the server's, give or take half a round trip."""
        before = time.time()
        reply = await self._connections.execute("TIME")
        after = time.time()
        return (before + after) / 2 - seconds(reply)

    async def refused(self, queue: str) -> list[str]:
        """Commands that a worker of this queue needs and this user may not send."""
        keys = self._keyspace.queue(queue)
        spelled = {name: getattr(keys, name) for name in KEY_TYPES}
        spelled |= {"names": self._keyspace.names, "once": self._keyspace.once(queue, "k")}
        args: list[Any] = []
        for words in NEEDED:
            args += (len(words), *(_spelled(word, spelled) for word in words))
        indexes = await self._connections.run(script("rights"), [keys.normal], args)
        return list(dict.fromkeys(_named(NEEDED[index - 1]) for index in indexes))

    async def wrong_types(self, queue: str) -> dict[str, tuple[str, str]]:
        """Keys of a queue that hold something else than they should: what they hold, and what they should."""
        keys = self._keyspace.queue(queue)
        wrong = {}
        for name, expected in KEY_TYPES.items():
            key = getattr(keys, name)
            found = text(await self._connections.execute("TYPE", key))
            if found not in {expected, "none"}:
                wrong[key] = found, expected
        return wrong

    async def groups(self, queue: str) -> dict[str, list[str]]:
        """The consumer groups of each stream that is there."""
        found = {}
        for stream in self._keyspace.queue(queue).streams:
            try:
                reply = await self._connections.execute("XINFO", "GROUPS", stream)
            except RedisUnavailable as error:
                if "no such key" in str(error).lower():
                    continue
                raise
            names = ({text(name): value for name, value in pairs(group)}["name"] for group in reply)
            found[stream] = sorted(map(text, names))
        return found

    async def exhausted(self, queue: str) -> list[str]:
        """Streams that take no more entries, because somebody used up the last id there is."""
        found = []
        for stream in self._keyspace.queue(queue).streams:
            if await self._connections.execute("EXISTS", stream):
                about = await self._connections.execute("XINFO", "STREAM", stream)
                if member(about, "last-generated-id") == LAST_ID:
                    found.append(stream)
        return found

    def timeouts(self) -> Timeouts:
        """How long this machine waits for it."""
        block = self._connections.block
        return Timeouts(COMMAND_TIMEOUT, block + READ_MARGIN, block)


def _spelled(word: str, keys: dict[str, str]) -> str:
    return keys[word[1:-1]] if word.startswith("{") else word


def _named(words: Sequence[str]) -> str:
    """A command as an ACL names it."""
    return " ".join(words[:2]) if words[0] in {"XINFO", "XGROUP", "CLIENT"} else words[0]
