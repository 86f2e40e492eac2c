"""The door to the streams of one queue, opened with domain verbs. Every change is one script, safe to be sent twice."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from streamq.core.config import LEVELS, Level
from streamq.core.errors import ConfigError
from streamq.core.failure import clip
from streamq.core.ledger import LevelMoment, Moment
from streamq.core.message import Delivery, Draft, delivery_from
from streamq.core.outcome import DeadLetter, Retry
from streamq.store.calls import Calls
from streamq.store.durability import run_durably
from streamq.store.keys import Keyspace
from streamq.store.outages import OutOfMemory
from streamq.store.replies import member, number, pairs, text
from streamq.store.scripts import NEEDS, PROTOCOL, script

ALONE = 1000  # the delivery counter of an entry that runs alone lies this much higher
NO_CURSORS = ("0-0", "0-0", "0-0", "0-0")


class Promotion(NamedTuple):
    """What one promote did.

    Attributes:
        now_ms: the time of Redis.
        moved: messages that went to their streams.
        dead: messages that were unreadable.
        next_due_ms: when the next one is due; None when none waits.
        clock_jumped: nothing was done, because the time of Redis is ahead of what the caller allowed.
    """

    now_ms: int
    moved: int = 0
    dead: int = 0
    next_due_ms: int | None = None
    clock_jumped: bool = False


class Reclaim(NamedTuple):
    """What one reclaim found.

    Attributes:
        deliveries: entries that are ours now.
        cursors: where the next call goes on, for each level.
        suspects: messages that went to wait because they may kill workers.
        dead: messages that became dead letters.
        grace: nothing was done, because nobody could speak lately.
        vanished: entries that somebody deleted.
    """

    deliveries: list[Delivery]
    cursors: tuple[str, ...] = NO_CURSORS
    suspects: int = 0
    dead: int = 0
    grace: bool = False
    vanished: int = 0


class QueueStore:
    """One queue in Redis.

    Args:
        calls: the way to Redis.
        keyspace: how keys are spelled.
        queue: the queue's name.
        group: its consumer group.

    Every method raises ``RedisUnavailable`` when Redis does not answer or refuses.
    """

    def __init__(self, calls: Calls, keyspace: Keyspace, queue: str, group: str) -> None:
        self.queue, self.group = queue, group
        self.keys = keyspace.queue(queue)
        self._keyspace = keyspace
        self._calls = calls

    async def register(self) -> None:
        """Write the queue's name where others look it up: before its first message."""
        try:
            await self._calls.execute("SADD", self._keyspace.names, self.queue)
        except OutOfMemory:  # a worker must be able to start when memory is full: who else would drain
            await self._calls.run(script("register"), [self._keyspace.names], [self.queue])

    async def ensure(self) -> None:
        """Make the streams and their group where they are missing.

        Raises:
            ConfigError: another group or a key of another type is in the way, or a newer streamq has worked here whose
                messages this one would misread.
        """
        word, *about = await self._run("ensure", [self.group, PROTOCOL, NEEDS])
        if word == b"NEWER":
            raise ConfigError(
                f"{self.queue} holds work of a newer streamq, which needs protocol {int(about[0])}; this one speaks "
                f"{PROTOCOL}: upgrade this worker before it takes part"
            )
        if word == b"OTHER_GROUP":
            key, name = (part.decode() for part in about)
            raise ConfigError(
                f"the stream {key} has a consumer group {name!r}, but this worker is configured for {self.group!r}; "
                f"two groups would each get every message. Set consumer_group: {name} for {self.queue}, or remove the "
                f"other group with XGROUP DESTROY {key} {name}"
            )
        if word == b"WRONG_TYPE":
            key, kind = (part.decode() for part in about)
            raise ConfigError(f"the key {key} holds a {kind}, which is not of streamq; choose another redis.prefix")

    async def publish(self, drafts: Sequence[Draft], *, window_ms: int, max_length: int, once_ms: int) -> list[str]:
        """Offer messages.

        Args:
            drafts: at most 500.
            window_ms: how long an id is remembered.
            max_length: of the queue; 0 = no limit.
            once_ms: how long an idempotency key is remembered.

        Returns:
            A word for each: ``OK``, ``DUP``, ``IDEM first_id``, ``FULL`` or ``ERR text``.
        """
        return _words(await self._run("publish", *self._offer(drafts, [window_ms, max_length, once_ms])))

    async def publish_durably(
        self, drafts: Sequence[Draft], durable: Literal["replica", "fsync"],
        *, window_ms: int, max_length: int, once_ms: int,
    ) -> tuple[list[str], str]:  # fmt: skip
        """Offer messages, and wait until those that are there would survive.

        Args:
            drafts: as for ``publish``, as the rest.
            durable: what.
            window_ms: likewise.
            max_length: likewise.
            once_ms: likewise.

        Returns:
            The words of ``publish``, and why what is there may not survive: "" when it does.
        """
        args, once = self._offer(drafts, [window_ms, max_length, once_ms])
        reply, doubt = await run_durably(self._calls, script("publish"), self.keys, args, once, durable=durable)
        return _words(reply), doubt

    def _offer(self, drafts: Sequence[Draft], limits: Sequence[int]) -> tuple[list[Any], list[str]]:
        once = [self._keyspace.once(self.queue, d.idempotency_key) for d in drafts if d.idempotency_key is not None]
        args: list[Any] = [*limits, len(drafts)]
        index = 0
        for draft in drafts:
            index += draft.idempotency_key is not None
            number = index if draft.idempotency_key is not None else 0
            args += (draft.level, draft.delay_ms, draft.due_ms, draft.id, number, len(draft.fields), *draft.fields)
        return args, once

    async def evict(self, level: Level, *, max_length: int, wanted: int) -> int:
        """Let the oldest undelivered messages go, of levels not above ``level``, until ``wanted`` more have room.

        Returns:
            How many went; -1 when there was room already; 0 when nothing may go.
        """
        return int(await self._run("evict", [self.group, level, max_length, wanted]))

    async def ack(self, entries: Sequence[tuple[Level, str]], counter: str = "done") -> int:
        """Take entries off the streams: their work is done.

        Args:
            entries: level and entry id.
            counter: ``done`` or ``dropped``.

        Returns:
            How many were counted; the others had been settled elsewhere.
        """
        args: list[Any] = [self.group, counter]
        for level in LEVELS:
            ids = [entry for where, entry in entries if where == level]
            args += (len(ids), *ids)
        return int(await self._run("ack", args))

    async def retry(self, consumer: str, items: Sequence[tuple[Delivery, Retry]]) -> list[str]:
        """Send entries back to wait. Returns ``OK``, ``LOST``, ``VANISHED`` or ``KEPT`` for each."""
        args: list[Any] = [self.group, consumer, len(items)]
        for delivery, wait in items:
            args += (delivery.level, delivery.entry_id, delivery.token, wait.delay_ms, wait.why)
            args += (wait.retry_count, wait.deliveries, wait.held_since, wait.alone)
        return _words(await self._run("retry", args))

    async def dead(self, consumer: str, items: Sequence[tuple[Delivery, DeadLetter]]) -> list[str]:
        """Move entries to the dead letters. Returns ``OK``, ``LOST`` or ``VANISHED`` for each."""
        try:
            return _words(await self._run("dead", self._letters(consumer, items)))
        except OutOfMemory:
            # A queue must be able to drain when memory is full, but then what is added is kept small.
            small = [(d, DeadLetter(o.reason, clip(o.error, 256), "", "", o.retry_count)) for d, o in items]
            return _words(await self._run("dead", self._letters(consumer, small), allow_oom=True))

    async def release(self, consumer: str, deliveries: Sequence[Delivery]) -> list[str]:
        """Give entries back unrun. Returns ``OK``, ``LOST``, ``VANISHED`` or ``KEPT`` for each."""
        args: list[Any] = [self.group, consumer, len(deliveries)]
        for delivery in deliveries:
            args += (delivery.level, delivery.entry_id, delivery.token, delivery.losses)
        return _words(await self._run("release", args))

    async def promote(self, *, limit: int = 100, max_now_ms: int = 0) -> Promotion:
        """Move what is due to its stream.

        Args:
            limit: how many at most.
            max_now_ms: do nothing when the time of Redis is past this; 0 = trust it.
        """
        word, now, *rest = await self._run("promote", [self.queue, limit, max_now_ms])
        if word == b"CLOCK":
            return Promotion(int(now), clock_jumped=True)
        moved, dead, next_due = (int(part) for part in rest)
        return Promotion(int(now), moved, dead, next_due if next_due >= 0 else None)

    async def reclaim(
        self, consumer: str, *, lease_ms: int, count: int, silent_after_ms: int, max_deliveries: int,
        cursors: Sequence[str] = NO_CURSORS, silent: Sequence[str] = (),
    ) -> Reclaim:  # fmt: skip
        """Take over entries of workers that vanished.

        Args:
            consumer: who takes them.
            lease_ms: idle time after which an entry may be taken from anybody.
            count: how many at most.
            silent_after_ms: a consumer that has not beaten for so long is dead.
            max_deliveries: losses after which a message is dead in any case.
            cursors: those of the last call.
            silent: consumers that a beat named as silent; checked again.
        """
        args = [self.queue, self.group, consumer, lease_ms, count, silent_after_ms, max_deliveries, *cursors, *silent]
        word, _, *rest = await self._run("reclaim", args)
        if word == b"GRACE":
            return Reclaim([], tuple(cursors), grace=True)
        found, suspects, dead, vanished, *taken = rest
        deliveries = [
            delivery_from(self.queue, level.decode(), entry, flat, int(token), losses=int(losses))
            for level, entry, token, losses, flat in taken
        ]
        cursors = tuple(cursor.decode() for cursor in found)
        return Reclaim(deliveries, cursors, int(suspects), int(dead), vanished=int(vanished))

    async def alone(self, consumer: str, delivery: Delivery, *, marked: bool = True) -> int | None:
        """Mark a suspect before it runs alone, or take the mark off again.

        Returns:
            Its new token; None when it is not ours any more.
        """
        change = ALONE if marked else -ALONE
        args = [self.group, consumer, delivery.level, delivery.entry_id, delivery.token, change]
        reply = await self._run("alone", args)
        return None if reply == b"LOST" else int(reply)

    async def cancel(self, members: Sequence[str]) -> list[str]:
        """Take delayed messages back. Returns ``OK`` or ``GONE`` for each."""
        return _words(await self._run("cancel", list(members)))

    async def forget(self, consumer: str, *, dead_after_ms: int) -> str:
        """Remove a consumer that is gone. Returns ``OK``, ``ALIVE`` or ``PENDING``."""
        return str((await self._run("janitor", [self.group, consumer, dead_after_ms])).decode())

    async def consumers(self) -> list[str]:
        """The names known to the group, on any level."""
        names: set[str] = set()
        for stream in self.keys.streams:
            for flat in await self._calls.execute("XINFO", "CONSUMERS", stream, self.group):
                names.add(member(flat, "name"))
        return sorted(names)

    async def moment(self) -> Moment:
        """Look at the whole queue in one step, changing nothing."""
        now, delayed, bodies, flat, *levels = await self._run("audit", [self.group])
        found = {text(name): number(value) for name, value in pairs(flat)}
        counters = {name: value for name, value in found.items() if value is not None}
        return Moment(int(now), delayed, bodies, counters, dict(zip(LEVELS, map(_level, levels), strict=True)))

    async def _run(self, name: str, args: list[Any], extra: Sequence[str] = (), *, allow_oom: bool = False) -> Any:
        return await self._calls.run(script(name, allow_oom=allow_oom), self.keys, args, extra)

    def _letters(self, consumer: str, items: Sequence[tuple[Delivery, DeadLetter]]) -> list[Any]:
        args: list[Any] = [self.group, consumer, self.queue, len(items)]
        for delivery, letter in items:
            args += (delivery.level, delivery.entry_id, delivery.token, delivery.message_id, letter.reason)
            args += (letter.error, letter.traceback, letter.fingerprint, letter.retry_count, delivery.losses)
        return args


def _words(reply: list[bytes]) -> list[str]:
    return [word.decode() for word in reply]


def _level(reply: list[Any]) -> LevelMoment:
    length, added, pending, ready, oldest, consumers = reply
    return LevelMoment(length, added, pending, _entry_ms(ready), _entry_ms(oldest), consumers)


def _entry_ms(entry: bytes) -> int | None:
    return int(entry.split(b"-")[0]) if entry else None
