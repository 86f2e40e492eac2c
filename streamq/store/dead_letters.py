"""The dead letters of all queues: list, replay, purge. Nothing here trims them: they go when somebody says so."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from streamq.core import codec
from streamq.core.outcome import Reason
from streamq.core.signing import KeyRing
from streamq.store import across
from streamq.store.connection import Connections
from streamq.store.keys import Keyspace
from streamq.store.outages import RedisRefused
from streamq.store.replies import counter, pairs, seconds
from streamq.store.scripts import script

PAGE = 200
BATCH = 100
_TARGETS = (b"queue", b"original_queue")
_ENTRY_ID = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter.

    Args:
        dlq_id: its own id: the entry id in the stream of dead letters.
        fields: everything it holds, as bytes.
    """

    dlq_id: str
    fields: dict[bytes, bytes]

    def text(self, name: str) -> str:
        """A field as text; empty when it is not there."""
        return self.fields.get(name.encode(), b"").decode(errors="replace")

    def count(self, name: str) -> int:
        """A counter; whatever is not a plain number counts as 0."""
        return counter(self.fields.get(name.encode()))

    def order(self) -> tuple[int, int]:
        """Sorts letters by their age."""
        ms, number = self.dlq_id.split("-")
        return int(ms), int(number)

    def slim(self) -> "DeadLetter":
        """The same without what is large: enough to purge it."""
        return DeadLetter(self.dlq_id, {name: self.fields[name] for name in _TARGETS if name in self.fields})

    @property
    def queue(self) -> str:
        """The queue it came from."""
        return self.text("original_queue")

    @property
    def failed_at(self) -> float:
        """When it died, seconds since the epoch."""
        return self.count("failed_at") / 1000

    @property
    def type(self) -> str | None:
        """The type of its payload, where that can be read."""
        try:
            return codec.decode_type(self.fields[b"payload"])
        except (KeyError, *codec.DECODE_ERRORS):
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which dead letters.

    Args:
        queue: of this queue.
        reason: with this reason.
        type: of this payload type.
        older_than: that died at least so many seconds ago.
        newer_than: that died at most so many seconds ago.
        ids: with one of these ids, their own or their message's.
    """

    queue: str | None = None
    reason: str | None = None
    type: str | None = None
    older_than: float | None = None
    newer_than: float | None = None
    ids: frozenset[str] = frozenset()

    def matches(self, letter: DeadLetter, now: float) -> bool:
        """Whether a letter is meant.

        Args:
            letter: which one.
            now: seconds since the epoch.
        """
        age = now - letter.failed_at
        return (
            (self.queue is None or letter.queue == self.queue)
            and (self.reason is None or letter.text("reason") == self.reason)
            and (self.older_than is None or age >= self.older_than)
            and (self.newer_than is None or age <= self.newer_than)
            and (self.type is None or letter.type == self.type)
            and (not self.ids or letter.dlq_id in self.ids or letter.text("original_id") in self.ids)
        )


EVERYTHING = Filter()


class DeadLetters:
    """All dead letters below one prefix.

    Args:
        connections: how to reach Redis.
        keyspace: how keys are spelled.
        keys: to check signatures before a replay.
    """

    def __init__(self, connections: Connections, keyspace: Keyspace, keys: KeyRing) -> None:
        self._connections, self._keyspace, self._keys = connections, keyspace, keys
        self._stream = keyspace.dead_letter

    async def list(self, which: Filter = EVERYTHING, *, limit: int | None = None) -> AsyncIterator[DeadLetter]:
        """Dead letters, the oldest first; those that die while this goes on are not among them.

        Args:
            which: all by default.
            limit: how many at most.
        """
        now = seconds(await self._connections.execute("TIME"))
        found = 0
        async for letter in self._scan(which.ids):
            if which.matches(letter, now):
                if limit is not None and found >= limit:
                    return
                found += 1
                yield letter

    async def get(self, name: str) -> DeadLetter | None:
        """One dead letter, by its own id or its message's."""
        async for letter in self.list(Filter(ids=frozenset([name])), limit=1):
            return letter
        return None

    async def refusal(self, letter: DeadLetter, *, force: bool = False) -> str | None:
        """Why a letter cannot be replayed; None when it can.

        Args:
            letter: which one.
            force: also what was unreadable, and what no signature vouches for.
        """
        queue = self.target(letter)
        if not await self._connections.execute("SISMEMBER", self._keyspace.names, queue):
            return f"its queue {queue!r} does not exist; use --to QUEUE"
        if force:
            return None
        if b"raw" in letter.fields:
            return "its fields were unreadable; --force puts them back as they were"
        if b"signature" in letter.fields:
            verdict = self._keys.verify(queue, letter.fields)
            return f"its signature does not hold ({verdict})" if verdict is not None else None
        if self._keys and letter.text("reason") == Reason.UNSIGNED:
            return "it is not signed, and would be refused again"
        return None

    def target(self, letter: DeadLetter) -> str:
        """The queue a letter goes back to: the one that was signed, else the one it was found in."""
        return letter.text("queue") or letter.queue

    async def replay(
        self, letters: Iterable[DeadLetter], *, force: bool = False, rate: float | None = None,
        progress: Callable[[int], None] = lambda _: None,
    ) -> dict[str, int]:  # fmt: skip
        """Bring letters back to their queues, in the same bytes and with a clean record.

        Args:
            letters: which ones; each must have passed ``refusal``.
            force: also what was kept raw.
            rate: letters a second at most; None = as fast as it goes.
            progress: called with how many were just dealt with.

        Returns:
            How many met each fate: ``OK``, ``GONE`` (somebody was faster), ``RAW``.
        """
        fates: dict[str, int] = {}
        size = BATCH if rate is None else max(1, min(BATCH, round(rate)))
        for queue, batch in _batches(letters, self.target, size):
            for word in await self.replay_batch(queue, batch, force=force):
                fates[word] = fates.get(word, 0) + 1
            progress(len(batch))
            if rate is not None:
                await asyncio.sleep(len(batch) / rate)
        return fates

    async def replay_batch(self, queue: str, letters: Sequence[DeadLetter], *, force: bool = False) -> Sequence[str]:
        """Bring letters back to one queue. Returns ``OK``, ``GONE`` or ``RAW`` for each.

        Args:
            queue: the target of each.
            letters: at most 100; each must have passed ``refusal``.
            force: also what was kept raw.
        """
        if self._keyspace.clustered:
            return [await self._replay_across(queue, letter, force) for letter in letters]
        ids = [letter.dlq_id for letter in letters]
        words = await self._connections.run(script("replay"), self._keyspace.queue(queue), [int(force), *ids])
        return [word.decode() for word in words]

    async def purge(self, letters: Iterable[DeadLetter], *, progress: Callable[[int], None] = lambda _: None) -> int:
        """Delete letters for good. Returns how many went.

        Args:
            letters: which ones.
            progress: called with how many were just dealt with.
        """
        gone = 0
        keys = [self._stream, self._keyspace.dead_letter_ledger]
        for _, batch in _batches(letters, lambda _: "", BATCH):
            ids = [letter.dlq_id for letter in batch if await self._may_purge(letter)]
            if ids:
                gone += int(await self._connections.run(script("purge"), keys, ["", *ids]))
            progress(len(batch))
        return gone

    async def _scan(self, ids: frozenset[str]) -> AsyncIterator[DeadLetter]:
        """All letters, or at least those with these ids: found without a scan where each is a letter's own."""
        await self._collect()
        named = [letter for name in ids for letter in await self._named(name)]
        if ids and len(named) == len(ids):
            for letter in sorted(named, key=DeadLetter.order):
                yield letter
            return
        newest = await self._range("XREVRANGE", "+", "-", "COUNT", 1)
        start = "-" if newest else ""
        while start:
            page = await self._range("XRANGE", start, newest[0].dlq_id, "COUNT", PAGE)
            for letter in page:
                yield letter
            start = f"({page[-1].dlq_id}" if len(page) == PAGE else ""

    async def _named(self, name: str) -> Sequence[DeadLetter]:
        return await self._range("XRANGE", name, name) if _ENTRY_ID.fullmatch(name) else ()

    async def _range(self, *command: Any) -> Sequence[DeadLetter]:
        reply = await self._connections.execute(command[0], self._stream, *command[1:])
        return [DeadLetter(entry.decode(), dict(pairs(fields))) for entry, fields in reply]

    async def _collect(self) -> None:
        """Cluster: bring what is still on its way, so that there is one place to look. Without the right, look only."""
        if self._keyspace.clustered:
            names = await self._connections.execute("SMEMBERS", self._keyspace.names)
            with contextlib.suppress(RedisRefused):
                for name in names:
                    while await across.move(self._connections, self._keyspace, name.decode()) == across.PAGE:
                        pass

    async def _replay_across(self, queue: str, letter: DeadLetter, force: bool) -> str:
        if not force and not {b"payload", b"original_id"} <= letter.fields.keys():
            return "RAW"
        return await across.replay(self._connections, self._keyspace, queue, letter.dlq_id, letter.fields)

    async def _may_purge(self, letter: DeadLetter) -> bool:
        if not self._keyspace.clustered:
            return True
        return await across.may_purge(self._connections, self._keyspace, self.target(letter), letter.dlq_id)


def _batches(
    letters: Iterable[DeadLetter], key: Callable[[DeadLetter], str], size: int
) -> Iterable[tuple[str, Sequence[DeadLetter]]]:
    waiting: dict[str, list[DeadLetter]] = {}
    for letter in letters:
        batch = waiting.setdefault(key(letter), [])
        batch.append(letter)
        if len(batch) >= size:
            yield key(letter), waiting.pop(key(letter))
    yield from waiting.items()
