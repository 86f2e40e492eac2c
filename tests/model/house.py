"""The rest of the scripts in Python: taking over from the dead, and keeping the house."""

from tests.model.entries import LEVEL_OF, LEVELS, carry, counter, read, unpack
from tests.model.world import ALONE, MALFORMED, MAX_DELIVERIES, World, key


class House(World):
    """A world with the scripts that look after it."""

    # --- taking over

    def reclaim(self, consumer, now, *, count, cursors, silent):
        """Returns what was taken, the cursors, suspects and dead ones; None during grace."""
        if self.guard(now):
            return None
        for stream in self.streams.values():
            stream.group()
        taken, cursors, before = [], list(cursors), (self.ledger["suspect"], self.ledger["dead"])
        for name in silent:
            if name != consumer and self.beats.get(name):
                for level, stream in self.streams.items():
                    held = sorted((e for e, p in stream.pending.items() if p.consumer == name), key=key)
                    if len(taken) < count:
                        self._claim(level, consumer, held[: count - len(taken)], taken)
        for n, (level, stream) in enumerate(self.streams.items()):
            room = count - len(taken)
            if room > 0:
                found, cursors[n] = self._page(stream, cursors[n], room)
                self._claim(level, consumer, found, taken)
        return taken, tuple(cursors), self.ledger["suspect"] - before[0], self.ledger["dead"] - before[1]

    def _page(self, stream, cursor, room):
        """XAUTOCLAIM: what is old or has no body, from the cursor on, in ten steps for each that there is room for."""
        waiting = sorted((e for e in stream.pending if key(e) >= key(cursor.encode())), key=key)
        found = []
        for steps, entry in enumerate(waiting):
            if len(found) == room or steps == 10 * room:
                return found, entry.decode()
            if stream.pending[entry].old or stream.body(entry) is None:
                found.append(entry)
        return found, "0-0"

    def _claim(self, level, consumer, entries, taken):
        bodies = [(entry, self.take(level, entry)) for entry in entries]
        for entry, _ in (pair for pair in bodies if pair[1] is not None):
            held = self.streams[level].pending[entry]
            held.consumer, held.times, held.old = consumer, held.times + 1, False
        for entry, flat in bodies:
            if flat is not None:
                taken += self._judge(level, consumer, entry, flat)

    def _judge(self, level, consumer, entry, flat):
        """What becomes of an entry that was taken over: it is returned, or waits, or is dead."""
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
            delay_ms = {2: 1000, 3: 5000}.get(losses, 30_000)
            self.wait(level, entry, carry(fields, level, entry, counters), delay_ms)
            self.ledger["suspect"] += 1
        self.remove(level, entry)
        return []

    # --- the house

    def ensure(self):
        for stream in self.streams.values():
            stream.last = stream.last or (0, 0)

    def destroy(self, level):
        self.streams[level].last = None
        self.streams[level].pending.clear()

    def forget(self, consumer):
        if self.beats.get(consumer) is False:
            return "ALIVE"
        for stream in self.streams.values():
            if any(held.consumer == consumer for held in stream.group().values()):
                return "PENDING"
        self.beats.pop(consumer, None)
        self.about.discard(consumer)
        return "OK"

    def cancel(self, members):
        words = []
        for member in members:
            found = self.delayed.pop(member.encode(), None)
            if found:
                self.gone([found[1]])
                self.ledger["cancelled"] += 1
            words.append("OK" if found else "GONE")
        return words

    def evict(self, level, max_length, wanted):
        if self.length + wanted <= max_length:
            return -1
        evicted = 0
        for name in reversed(LEVELS[LEVELS.index(level) :]):
            excess = max(0, min(self.length - max_length + wanted, wanted - evicted))
            for entry, flat in self.streams[name].undelivered()[:excess]:
                self.streams[name].remove(entry)
                self.gone(flat)
                evicted += 1
        if evicted:
            self.ledger["evicted"] += evicted
        return evicted

    def purge(self, level, ids):
        stream, purged = self.streams[level], 0
        for entry in ids:
            if entry not in stream.group():
                flat = stream.remove(entry)
                if flat is not None:
                    self.gone(flat)
                    purged += 1
        if purged:
            self.ledger["purged"] += purged
        return purged

    def purge_letters(self, ids):
        gone = [item for item in self.letters if item[0] in ids]
        self.letters = [item for item in self.letters if item[0] not in ids]
        for _, flat in gone:
            self.gone(flat)
        self.purged += len(gone)
        return len(gone)

    def replay(self, ids, *, force):
        words = []
        for name in ids:
            flat = next((flat for entry, flat in self.letters if entry == name), None)
            words.append("GONE" if flat is None else self._replay(name, flat, force))
        return words

    def _replay(self, name, flat, force):
        held, level = dict(zip(flat[::2], flat[1::2], strict=True)), "normal"
        fields = read(flat)
        if fields is not None:
            level = LEVEL_OF[fields.get(b"priority", b"3")]
            back = carry({b"id": fields[b"original_id"]} | fields, level, name, {b"retry_count": b"0"})
        else:
            back = unpack(held.get(b"raw", b"")) if force else None
            if not back or len(back) % 2:
                return "RAW"
        self.streams[level].entries.append([None, back])
        self.ledger[f"added:{level}"] += 1
        self.ledger["replayed"] += 1
        self.letters = [item for item in self.letters if item[0] != name]
        return "OK"

    def vanish(self, level, entry):
        """Somebody deletes an entry, and somebody books it off."""
        self.gone(self.streams[level].remove(entry))
        self.ledger["written_off"] += 1
