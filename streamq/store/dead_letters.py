"""The dead letters of all queues: list, replay, purge. Nothing here trims them: they go when somebody says so."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from streamq.core import codec
from streamq.core.outcome import Reason
from streamq.core.signing import KeyRing
from streamq.store.connection import Connections
from streamq.store.keys import Keyspace
from streamq.store.scripts import script

PAGE = 200
BATCH = 100


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

    @property
    def queue(self) -> str:
        """The queue it came from."""
        return self.text("original_queue")

    @property
    def failed_at(self) -> float:
        """When it died, seconds since the epoch."""
        raw = self.fields.get(b"failed_at", b"0")
        return int(raw) / 1000 if raw.isdigit() else 0.0

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

    async def list(self, which: Filter = EVERYTHING, *, limit: int | None = None) -> AsyncIterator[DeadLetter]:
        """Dead letters, the oldest first.

        Args:
            which: all by default.
            limit: how many at most.
        """
        seconds, _ = await self._connections.execute("TIME")
        now, start, found = float(seconds), "-", 0
        while start:
            page = _entries(
                await self._connections.execute("XRANGE", self._keyspace.dead_letter, start, "+", "COUNT", PAGE)
            )
            for letter in page:
                if which.matches(letter, now):
                    if limit is not None and found >= limit:
                        return
                    found += 1
                    yield letter
            start = f"({page[-1].dlq_id}" if len(page) == PAGE else ""

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
        for queue, ids in _batches(letters, self.target, size):
            keys = self._keyspace.queue(queue)
            for word in await self._connections.run(script("replay"), keys, [int(force), *ids]):
                fates[word.decode()] = fates.get(word.decode(), 0) + 1
            progress(len(ids))
            if rate is not None:
                await asyncio.sleep(len(ids) / rate)
        return fates

    async def purge(
        self, letters: Iterable[DeadLetter], *, progress: Callable[[int], None] = lambda _: None
    ) -> int:
        """Delete letters for good. Returns how many went.

        Args:
            letters: which ones.
            progress: called with how many were just dealt with.
        """
        gone = 0
        keys = [self._keyspace.dead_letter, self._keyspace.dead_letter_ledger]
        for _, ids in _batches(letters, lambda _: "", BATCH):
            gone += int(await self._connections.run(script("purge"), keys, ["", *ids]))
            progress(len(ids))
        return gone


def _batches(
    letters: Iterable[DeadLetter], key: Callable[[DeadLetter], str], size: int
) -> Iterable[tuple[str, Sequence[str]]]:
    waiting: dict[str, list[str]] = {}
    for letter in letters:
        ids = waiting.setdefault(key(letter), [])
        ids.append(letter.dlq_id)
        if len(ids) >= size:
            yield key(letter), ids
            waiting[key(letter)] = []
    yield from ((queue, ids) for queue, ids in waiting.items() if ids)


def _entries(reply: Any) -> list[DeadLetter]:
    letters = []
    for entry, fields in reply:
        held = fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))
        letters.append(DeadLetter(entry.decode(), held))
    return letters
