"""The rest of the scripts in Python: beats, taking over from the dead, and keeping the house."""

from tests.model.entries import LEVELS, carry, counter, read
from tests.model.streams import Pending, key
from tests.model.world import ALONE, MALFORMED, MAX_DELIVERIES, SECOND, World

OUTAGE, STEP_BACK, GRACE = 5 * SECOND, 2 * SECOND, 10 * SECOND


class House(World):
    """A world with the scripts that look after it."""

    # --- beats

    def beat_of(self, name):
        raw = self.workers.get(name)
        return int(raw) if raw is not None and raw.isdigit() else 0

    def guard(self, lease):
        """The service guard. Returns whether silence proves nothing now."""
        seen = self.beat_of("!seen")
        if seen > self.now + STEP_BACK:
            for name in self.workers:
                if self.beat_of(name) > self.now:
                    self.workers[name] = b"%d" % self.now
        if seen and (self.now - seen > min(OUTAGE, lease * 0.75) or seen > self.now + STEP_BACK):
            self.workers["!grace"] = b"%d" % (self.now + GRACE)
        self.workers["!seen"] = b"%d" % self.now
        return self.now < self.beat_of("!grace") <= self.now + GRACE

    def silent(self, silent_after):
        names = [name for name in self.workers if not name.startswith("!")]
        return {name for name in names if self.beat_of(name) + silent_after < self.now}

    def extend(self, consumer, deliveries, about, *, lease, silent_after):
        self.guard(lease)
        self.workers[consumer] = b"%d" % self.now
        lost = []
        for delivery in deliveries:
            level, entry = delivery.level, delivery.entry_id.encode()
            if not self.owned(level, entry, consumer, delivery.token) or self.take(level, entry) is None:
                lost.append(delivery)
            else:
                self.streams[level].pending[entry].since = self.now
        if about:
            self.workers[f"!about:{consumer}"] = about.encode()
        return lost, self.silent(silent_after)

    # --- taking over

    def reclaim(self, consumer, *, lease, count, silent_after, cursors, silent):
        """Returns what was taken, the cursors, suspects, dead ones and ghosts; None during grace."""
        if self.guard(lease):
            return None
        for stream in self.streams.values():
            stream.group()
        counted = ("suspect", "dead", "vanished")
        taken, cursors, before = [], list(cursors), [self.ledger[name] for name in counted]
        for name in silent:
            if name != consumer and name in self.workers and self.beat_of(name) + silent_after < self.now:
                for level, stream in self.streams.items():
                    room = count - len(taken)
                    if room > 0:
                        self._claim(level, consumer, stream.held_by(name)[:room], taken)
        for n, (level, stream) in enumerate(self.streams.items()):
            room = count - len(taken)
            if room > 0:
                found, cursors[n] = self._page(stream, cursors[n], room, lease)
                self._claim(level, consumer, found, taken)
        return taken, tuple(cursors), *(self.ledger[name] - then for name, then in zip(counted, before, strict=True))

    def _page(self, stream, cursor, room, lease):
        """XAUTOCLAIM: what is old or has no body, from the cursor on, in ten steps for each that there is room for."""
        waiting = sorted((e for e in stream.pending if key(e) >= key(cursor.encode())), key=key)
        found = []
        for steps, entry in enumerate(waiting):
            if len(found) == room or steps == 10 * room:
                return found, entry.decode()
            if entry not in stream.entries or self.now - stream.pending[entry].since >= lease:
                found.append(entry)
        return found, "0-0"

    def _claim(self, level, consumer, entries, taken):
        bodies = [(entry, self.take(level, entry)) for entry in entries]
        there = [(entry, flat) for entry, flat in bodies if flat is not None]
        pending = self.streams[level].pending
        for entry, _ in there:
            pending[entry] = Pending(consumer, self.now, pending[entry].times + 1)
        for entry, flat in there:
            taken += self._judge(level, consumer, entry, flat)

    def _judge(self, level, consumer, entry, flat):
        """What becomes of an entry that was taken over: it is returned, or waits, or is dead."""
        self.ledger["orphan"] += 1
        times = token = self.streams[level].pending[entry].times
        fields = read(flat)
        about = {"original_entry": entry, "worker": consumer.encode()}
        if fields is None:
            about |= {"error": MALFORMED, "deliveries": b"%d" % (times - 1), "retry_count": b"0"}
            self.bury(flat, reason=b"malformed", **about)
            self.remove(level, entry)
            return []
        fields = {b"id": b"e%b-%b" % (level.encode(), entry)} | fields
        alone = counter(fields.get(b"alone"))
        if times > ALONE + 1:
            alone, times = alone + 1, times - ALONE
        losses = counter(fields.get(b"deliveries")) + times - 1
        retries = b"%d" % counter(fields.get(b"retry_count"))
        about |= {"original_id": fields[b"id"], "deliveries": b"%d" % losses, "retry_count": retries}
        named = [part for pair in fields.items() for part in pair]
        if alone >= 2:
            self.bury(named, reason=b"poison", error=b"killed %d workers while it ran alone" % alone, **about)
        elif losses >= MAX_DELIVERIES:
            self.bury(named, reason=b"max_deliveries", error=b"%d workers vanished with it" % losses, **about)
        elif losses < 2:
            return [(level, entry, token, losses, flat)]
        else:
            counters = {b"retry_count": retries, b"deliveries": b"%d" % losses}
            counters[b"held_since"] = fields.get(b"held_since")
            counters[b"alone"] = b"%d" % alone if alone else None
            delay_ms = {2: 1 * SECOND, 3: 5 * SECOND}.get(losses, 30 * SECOND)
            self.wait(level, entry, carry(fields, level, entry, counters), delay_ms)
            self.ledger["suspect"] += 1
        self.remove(level, entry)
        return []

    # --- the house

    def ensure(self, needs):
        for stream in self.streams.values():
            stream.make_group()
        self.workers.setdefault("!needs", b"%d" % needs)

    def forget(self, consumer, dead_after):
        if self.beat_of(consumer) + dead_after > self.now:
            return "ALIVE"
        for stream in self.streams.values():
            if any(held.consumer == consumer for held in stream.group().values()):
                return "PENDING"
        self.workers.pop(consumer, None)
        self.workers.pop(f"!about:{consumer}", None)
        return "OK"

    def cancel(self, members):
        return ["OK" if self._cancel(member.encode()) else "GONE" for member in members]

    def _cancel(self, member):
        if self.due.pop(member, None) is None:
            return False
        packed = self.bodies.pop(member, None)
        if packed is not None:
            self.gone([packed])
        self.ledger["cancelled"] += 1
        return True

    def evict(self, level, max_length, wanted):
        if self.length + wanted <= max_length:
            return -1
        evicted = 0
        for name in reversed(LEVELS[LEVELS.index(level) :]):
            excess = max(0, min(self.length - max_length + wanted, wanted - evicted))
            for entry in self.streams[name].undelivered()[:excess]:
                self.gone(self.streams[name].entries.pop(entry))
                evicted += 1
        self.ledger["evicted"] += evicted
        return evicted

    def purge(self, level, ids):
        stream, purged = self.streams[level], 0
        for entry in ids:
            if entry not in stream.group():
                flat = stream.entries.pop(entry, None)
                if flat is not None:
                    self.gone(flat)
                    purged += 1
        self.ledger["purged"] += purged
        return purged
