"""Dead letters as an operator handles them: choose some, bring them back or let them go. ``app.dead_letters``.

What ``streamq dlq`` does, for Python::

    async with app:
        async for fate in app.dead_letters.replay_matching(Filter(queue="email_queue", reason="rejected"), rate=100):
            print(fate.dlq_id, fate.fate, fate.why)
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import groupby
from typing import Literal

import msgspec

from streamq.core import codec
from streamq.core.config import check_queue_name
from streamq.core.errors import InvalidMessage
from streamq.core.message import LEVEL_OF, Metadata
from streamq.core.options import Options
from streamq.core.outcome import Reason
from streamq.core.receipt import Receipt
from streamq.core.signing import KeyRing
from streamq.publisher import Publisher
from streamq.store.connection import Connections
from streamq.store.dead_letters import BATCH, EVERYTHING, DeadLetter, DeadLetters, Filter
from streamq.store.keys import Keyspace

__all__ = ["EVERYTHING", "DeadLetter", "DeadLetterBox", "Fate", "Filter", "Reason"]

HEADER = "replayed_from"
STEPS = 10  # a second, in which what `rate` allows is replayed: evenly, not in one heap


class Fate(msgspec.Struct, frozen=True):
    """What became of one dead letter.

    Args:
        dlq_id: the letter.
        original_id: its message.
        queue: the queue it went back to, or would have.
        reason: why it had died.
        type: of its payload, where that can be read.
        fate: `replayed`; `gone` when somebody was faster; `refused`; `allowed` in a dry run.
        why: why it was refused.
        id: the new message's id, when it went to another queue.
    """

    dlq_id: str
    original_id: str
    queue: str
    reason: str
    type: str | None
    fate: Literal["replayed", "gone", "refused", "allowed"]
    why: str | None = None
    id: str | None = None


class DeadLetterBox(DeadLetters):
    """All dead letters below one prefix, and a publisher for those that go elsewhere.

    Args:
        connections: how to reach Redis.
        keyspace: how keys are spelled.
        keys: to check signatures before a replay.
        publisher: for what goes to another queue.
    """

    def __init__(self, connections: Connections, keyspace: Keyspace, keys: KeyRing, publisher: Publisher) -> None:
        super().__init__(connections, keyspace, keys)
        self._publisher = publisher

    async def replay_matching(
        self, which: Filter = EVERYTHING, *, limit: int | None = None, to: str | None = None, force: bool = False,
        rate: float | None = None, dry_run: bool = False,
    ) -> AsyncIterator[Fate]:  # fmt: skip
        """Bring letters back, and tell of each what became of it.

        Args:
            which: all by default. Those that die again meanwhile are not taken twice.
            limit: how many at most.
            to: another queue: each becomes a new message there, with the header ``replayed_from``, and the letter is
                purged. Repeating it within ``idempotency_window`` publishes nothing twice.
            force: also what was unreadable, and what no signature vouches for.
            rate: letters a second at most; None = as fast as it goes.
            dry_run: change nothing; tell what would happen.

        Raises:
            ConfigError: ``to`` cannot be the name of a queue.
            QueueFull: there is no room in ``to``; letters that are not told of are still there.
            DurabilityUnconfirmed: ``to`` asks for more than Redis confirms; likewise, and calling it again asks again.
            RedisUnavailable: Redis did not answer; calling it again does the rest.
        """
        if to is not None:
            check_queue_name(to)
        size = BATCH if rate is None else max(1, min(BATCH, round(rate / STEPS)))
        pace = _Pace(rate)
        async for page in _pages(self.list(which, limit=limit), size):
            allowed = []
            for letter in page:
                why = await self.refusal_to(letter, to, force=force)
                if why is not None:
                    yield self._fate(letter, to, "refused", why)
                elif dry_run:
                    yield self._fate(letter, to, "allowed")
                else:
                    allowed.append(letter)
            await pace.wait(len(allowed))
            async for fate in self._move(allowed, to) if to is not None else self._bring_back(allowed, force):
                yield fate

    async def purge_matching(
        self, which: Filter = EVERYTHING, *, limit: int | None = None, progress: Callable[[int], None] = lambda _: None
    ) -> int:
        """Delete letters for good. Returns how many went.

        Args:
            which: all by default.
            limit: how many at most.
            progress: called with how many were just dealt with.
        """
        gone = 0
        async for page in _pages(self.list(which, limit=limit), BATCH):
            gone += await self.purge(page, progress=progress)
        return gone

    async def refusal_to(self, letter: DeadLetter, to: str | None, *, force: bool = False) -> str | None:
        """Why a letter cannot be replayed to a queue of choice; None when it can.

        Args:
            letter: which one.
            to: the other queue; None = its own.
            force: also what no signature vouches for.
        """
        if to is None:
            return await self.refusal(letter, force=force)
        if letter.type is None:
            return "it has no readable payload with a type; it can only go back to its own queue, with --force"
        if force:
            return None
        # It would be signed anew, with our key: that must not make an order of somebody else ours.
        if b"signature" in letter.fields:
            verdict = self._keys.verify(self.target(letter), letter.fields)
            return f"its signature does not hold ({verdict}); --force sends it as ours" if verdict is not None else None
        return "it is not signed; --force sends it as ours" if self._keys else None

    async def _bring_back(self, letters: Sequence[DeadLetter], force: bool) -> AsyncIterator[Fate]:
        for queue, group in groupby(sorted(letters, key=self.target), key=self.target):
            batch = list(group)
            for letter, word in zip(batch, await self.replay_batch(queue, batch, force=force), strict=True):
                match word:
                    case "OK":
                        yield self._fate(letter, None, "replayed")
                    case "GONE":
                        yield self._fate(letter, None, "gone", "somebody replayed or purged it meanwhile")
                    case _:
                        hint = "" if force else "; --force puts them back as they were"
                        yield self._fate(letter, None, "refused", f"its fields are unreadable{hint}")

    async def _move(self, letters: Sequence[DeadLetter], to: str) -> AsyncIterator[Fate]:
        # What is published in one turn of the loop goes out as one call.
        offers = [self._publisher.publish(to, letter.fields[b"payload"], _options(letter)) for letter in letters]
        results = await asyncio.gather(*offers, return_exceptions=True)
        outcomes = list(zip(letters, results, strict=True))
        await self.purge([letter for letter, result in outcomes if isinstance(result, Receipt)])
        for letter, result in outcomes:
            if isinstance(result, Receipt):
                yield self._fate(letter, to, "replayed", id=result.id)
            elif isinstance(result, InvalidMessage):
                yield self._fate(letter, to, "refused", str(result))
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, InvalidMessage):
                raise result

    def _fate(
        self, letter: DeadLetter, to: str | None, fate: Literal["replayed", "gone", "refused", "allowed"],
        why: str | None = None, *, id: str | None = None,
    ) -> Fate:  # fmt: skip
        return Fate(
            dlq_id=letter.dlq_id,
            original_id=letter.text("original_id"),
            queue=to or self.target(letter),
            reason=letter.text("reason"),
            type=letter.type,
            fate=fate,
            why=why,
            id=id,
        )


class _Pace:
    """Lets so many pass a second, whatever time they take themselves."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._free_at = time.monotonic()

    async def wait(self, count: int) -> None:
        if self._rate is not None and count:
            now = time.monotonic()
            if self._free_at > now:
                await asyncio.sleep(self._free_at - now)
            self._free_at = max(now, self._free_at) + count / self._rate


async def _pages(letters: AsyncIterator[DeadLetter], size: int) -> AsyncIterator[list[DeadLetter]]:
    page: list[DeadLetter] = []
    async for letter in letters:
        page.append(letter)
        if len(page) == size:
            yield page
            page = []
    if page:
        yield page


def _options(letter: DeadLetter) -> Options:
    """What is kept of a message that becomes a new one: not its times, which have passed."""
    try:
        old = codec.decode_metadata(letter.fields.get(b"metadata", b"{}"))
    except codec.DECODE_ERRORS:
        old = Metadata()
    return Options(
        priority=LEVEL_OF.get(letter.fields.get(b"priority", b""), "normal"),
        max_retries=old.max_retries,
        timeout=None if old.timeout is None else old.timeout / 1000,
        correlation_id=old.correlation_id,
        headers={**(old.headers or {}), HEADER: letter.dlq_id},
        # A crash between publishing and purging leaves the letter; the next try must not publish it once more.
        idempotency_key=f"{HEADER}:{letter.dlq_id}",
    )
