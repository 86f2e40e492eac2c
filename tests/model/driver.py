"""One operation on a real server and on the model, and everything compared after it."""

from collections import deque
from pathlib import Path

from streamq.store.connection import GroupMissing, OutOfMemory
from streamq.store.streams import NO_CURSORS
from tests.contract.desk import GROUP
from tests.model.entries import LEVELS, NOW
from tests.model.house import House
from tests.model.world import UID, Delay, NoGroup, key

SNAPSHOT = (Path(__file__).parent / "snapshot.lua").read_text()
ONCE = ("k0", "k1", "k2", "k3")
DIAGNOSTICS = {b"fenced", b"late_ack"}


class Driver:
    """Args: a desk on a real server, and a random number generator that makes a run repeatable."""

    def __init__(self, desk, rng):
        self.desk, self.store, self.raw, self.keys, self.rng = desk, desk.store, desk.raw, desk.keys, rng
        self.world = House()
        self.hands = []  # (consumer, delivery) as workers remember them, stale ones among them
        self.cursors = NO_CURSORS
        self.numbers, self.names = 0, deque(maxlen=12)
        self.done, self.trace = 0, deque(maxlen=12)
        names = [*(self.keys.stream(level) for level in LEVELS), self.keys.delayed, self.keys.messages]
        names += [self.keys.ledger, self.keys.workers, self.keys.seen_0, self.keys.seen_1, desk.keyspace.dead_letter]
        names += [desk.keyspace.dead_letter_ledger, *(desk.keyspace.once("orders", name) for name in ONCE)]
        self._look = ("EVALSHA", self.raw("SCRIPT", "LOAD", SNAPSHOT), len(names), *names, GROUP)
        self._now = desk.now()
        self.seen = None  # the last snapshot

    # --- doing it twice: for real and in the model

    async def perform(self, act, model, *, repeatable=True, memory=True):
        """Returns the reply; None when its loss is played."""
        if self.rng.random() < 0.02:
            self.raw("SCRIPT", "FLUSH")
            self.raw("SCRIPT", "LOAD", SNAPSHOT)
        full = memory and self.rng.random() < 0.04
        reply = await self._once(act, model, full)
        if self.rng.random() < 0.15:
            self.trace.append("  again")
            before = settled(self.seen)
            refused = reply == "OOM"
            reply = await self._once(act, model, full=False)
            assert refused or not repeatable or settled(self.seen) == before, "sending it twice changes something"
        if reply == "NOGROUP" and self.rng.random() < 0.8:
            await self.ensure()
        return None if reply in ("OOM", "NOGROUP") or self.rng.random() < 0.05 else reply

    async def _once(self, act, model, full):
        if full:
            self.raw("CONFIG", "SET", "maxmemory", 1)
        try:
            reply = await act()
        except GroupMissing:
            reply = "NOGROUP"
        except OutOfMemory:
            reply = "OOM"
        finally:
            if full:
                self.raw("CONFIG", "SET", "maxmemory", 0)
        self.trace.append(f"    {'(full) ' * full}-> {reply}"[:300])
        try:
            expected = model(full)
        except NoGroup:
            expected = "NOGROUP"
        assert reply == expected, f"the reply should be {expected}"
        await self.compare()
        return reply

    # --- comparing

    async def compare(self):
        """Everything Redis holds is what the model holds; the law is 0; every message is in exactly one place."""
        seen, world, then = self.raw(*self._look), self.world, self._now
        self._now = seen[13]
        for (level, stream), (entries, last, pending) in zip(world.streams.items(), seen[:4], strict=True):
            adopt(stream.entries, entries)
            assert stream.entries == entries, level
            assert (key(last) if last else None) == stream.last, level
            held = {entry: (consumer.decode(), times) for entry, consumer, _, times in pending}
            assert held == {entry: (p.consumer, p.times) for entry, p in stream.pending.items()}, level
        scores = {member: float(score) for member, score in pairs(seen[4])}
        self._compare_delayed(scores, dict(pairs(seen[5])), then)
        ledger = {name.decode(): int(value) for name, value in pairs(seen[6]) if value != b"0"}
        assert ledger == {name: value for name, value in world.ledger.items() if value}
        workers = {name.decode() for name, _ in pairs(seen[7])} - {"!seen", "!grace"}
        assert workers == {*world.beats, *(f"!about:{name}" for name in world.about)}
        assert {*seen[8], *seen[9]} == world.fresh | world.older
        adopt(world.letters, seen[10])
        assert world.letters == seen[10]
        assert int(seen[11] or 0) == world.purged
        assert [first or None for first in seen[12]] == [world.once.get(name) for name in ONCE]
        numbers = sorted(map(int, UID.findall(b"".join(everything(seen)))))
        assert numbers == sorted(world.alive), "every message is in one place"
        await self._law(len(seen[10]))
        self.seen = seen

    def _compare_delayed(self, scores, bodies, then):
        for member, held in self.world.delayed.items():
            score = scores.get(member)
            if isinstance(held[0], Delay):
                assert score is not None, member
                assert then + held[0] <= score <= self._now + held[0], member
                held[0] = score
        assert scores == {member: score for member, (score, _) in self.world.delayed.items()}
        assert bodies == {member: packed for member, (_, packed) in self.world.delayed.items()}

    async def _law(self, letters):
        moment = await self.store.moment()
        assert (moment.imbalance, moment.body_imbalance, moment.deleted_streams) == (0, 0, [])
        counters = moment.counters
        assert counters.get("dead", 0) - counters.get("replayed", 0) - self.world.purged == letters

    def guard_time(self):
        return int(self.raw("HGET", self.keys.workers, "!seen"))


def settled(seen):
    """A snapshot without times, and without the diagnostics that repetition changes."""
    streams = [(entries, last, [(e, c, n) for e, c, _, n in pending]) for entries, last, pending in seen[:4]]
    ledger = {name: value for name, value in pairs(seen[6]) if name not in DIAGNOSTICS}
    workers = {name for name, _ in pairs(seen[7])}
    return streams, seen[4], dict(pairs(seen[5])), ledger, workers, {*seen[8], *seen[9]}, seen[10:13]


def adopt(known, found):
    """Learn what only Redis knows of new entries: their ids, and when a message died."""
    for item, (entry, flat) in zip(known, found, strict=True):
        if item[0] is None:
            item[0] = entry
            if NOW in item[1]:
                item[1][item[1].index(NOW)] = flat[flat.index(b"failed_at") + 1]


def everything(seen):
    for entries, _, _ in seen[:4]:
        for _, flat in entries:
            yield from flat
    yield from seen[5][1::2]
    for _, flat in seen[10]:
        yield from flat


def pairs(flat):
    return zip(flat[::2], flat[1::2], strict=True)
