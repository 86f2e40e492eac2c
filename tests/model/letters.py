"""Dead letters in Python: back to their queue and gone for good, and in a Cluster on their way, step by step."""

from tests.model.entries import CARRIED, LEVEL_OF, carry, read
from tests.model.house import House
from tests.support import unpack_fields


class Crash(Exception):
    """The caller is dead: what it did before stands."""


class Steps:
    """How many commands a caller gets through before it dies; None: it lives."""

    def __init__(self, number=None):
        self.left = number

    def take(self):
        if self.left == 0:
            raise Crash
        self.left = self.left and self.left - 1


class Office(House):
    """A house with its dead letters."""

    def purge_letters(self, ids, steps, *, full):
        """In a Cluster a mark says first that they go for good. What is back at its queue is not purged any more."""
        if self.clustered:
            ids = [entry for entry in ids if self._may_purge(entry, steps, full)]
        if not ids:
            return 0
        steps.take()
        gone = [self.dead_letter.entries.pop(entry) for entry in ids if entry in self.dead_letter.entries]
        for flat in gone:
            self.gone(flat)
        self.dead_letter_ledger["purged"] += len(gone)
        return len(gone)

    def _may_purge(self, entry, steps, full):
        steps.take()
        if full:
            raise MemoryError
        verdict = self.marks.setdefault(replayed(entry), b"purged")
        steps.take()
        return verdict == b"purged"

    # --- standalone

    def replay(self, ids, *, force):
        return [self._replay(name, force) for name in ids]

    def _replay(self, name, force):
        flat = self.dead_letter.entries.get(name)
        if flat is None:
            return "GONE"
        held, level = dict(zip(flat[::2], flat[1::2], strict=True)), "normal"
        fields = read(flat)
        if fields is not None:
            level = LEVEL_OF[fields.get(b"priority", b"3")]
            back = carry({b"id": fields[b"original_id"]} | fields, level, name, {b"retry_count": b"0"})
        else:
            back = unpack_fields(held.get(b"raw", b"")) if force else None
            if not back or len(back) % 2:
                return "RAW"
        if not self.add(level, back):
            raise Crash
        self.ledger["replayed"] += 1
        del self.dead_letter.entries[name]
        return "OK"

    # --- Cluster: each step is one command

    def move(self, steps):
        """What a mover does that dies after so many steps. Returns how many left the queue."""
        steps.take()
        page = list(self.way.entries.items())
        for entry, flat in page:
            self.move_one(entry, flat, steps)
        return len(page)

    def move_one(self, entry, flat, steps):
        """The page may be an old one: then the mark is there already."""
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        mark = b"{queue:dead_letter}:moved:orders/%b/%b" % (entry, fields.get(b"original_id", b""))
        steps.take()
        if mark not in self.marks:
            self.dead_letter.add(self.now, flat)
            self.marks[mark] = b"1"
            self.moving.add(entry)
        steps.take()
        self.way.entries.pop(entry, None)
        self.moving.discard(entry)

    def replay_across(self, entry, flat, steps, *, force, full):
        """Args: the letter as somebody read it once."""
        fields, mark = dict(zip(flat[::2], flat[1::2], strict=True)), replayed(entry)
        if b"payload" not in fields and not force:
            return "RAW"
        steps.take()
        if mark not in self.marks:
            steps.take()
            if entry not in self.dead_letter.entries:
                return "GONE"
        steps.take()
        if full:
            raise MemoryError
        if self.marks.get(mark) == b"purged":
            return "GONE"
        if mark not in self.marks and not self._come_back(entry, fields):
            return "RAW"
        steps.take()
        self.returning.discard(entry)
        return "GONE" if self.dead_letter.entries.pop(entry, None) is None else "OK"

    def _come_back(self, entry, fields):
        """Returns whether there was anything to bring back."""
        level, back = "normal", unpack_fields(fields.get(b"raw", b""))
        if b"payload" in fields:
            carried = {name: fields[name] for name in CARRIED if name in fields}
            carried.setdefault(b"id", fields[b"original_id"])
            level = LEVEL_OF[fields.get(b"priority", b"3")]
            back = [part for pair in (carried | {b"retry_count": b"0"}).items() for part in pair]
        if not back or len(back) % 2:
            return False
        if not self.add(level, back):
            raise Crash
        self.marks[replayed(entry)] = b"1"
        self.ledger["replayed"] += 1
        self.returning.add(entry)
        return True


def replayed(entry):
    return b"{queue:orders}:replayed:" + entry
