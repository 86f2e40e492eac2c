"""One stream as Redis keeps it, as far as the scripts can see."""

from dataclasses import dataclass, field

MOST = 2**64 - 1


class NoGroup(Exception):
    """Redis would say NOGROUP here; what was done before stands."""


@dataclass(slots=True)
class Pending:
    """One entry in the hands of a consumer."""

    consumer: str
    since: int  # milliseconds
    times: int = 1


@dataclass(slots=True)
class Stream:
    """A stream, with one group or none."""

    entries: dict = field(default_factory=dict)  # id -> flat
    top: tuple = (0, 0)  # the last id that was given away
    added: int = 0
    last: tuple | None = None  # last delivered id of the group; None: there is no group
    pending: dict = field(default_factory=dict)

    def group(self):
        if self.last is None:
            raise NoGroup
        return self.pending

    def add(self, now, flat):
        """XADD. Returns the id; None when the last one was used up."""
        if self.top == (MOST, MOST):
            return None
        ms, number = self.top
        self.top = (now, 0) if now > ms else ((ms, number + 1) if number < MOST else (ms + 1, 0))
        entry = b"%d-%d" % self.top
        self.entries[entry] = flat
        self.added += 1
        return entry

    def undelivered(self):
        return [entry for entry in self.entries if self.last is None or key(entry) > self.last]

    def held_by(self, consumer):
        return sorted((entry for entry, held in self.pending.items() if held.consumer == consumer), key=key)

    def make_group(self):
        self.last = self.last or (0, 0)

    def destroy_group(self):
        self.last = None
        self.pending.clear()

    def delete(self):
        """DEL: nothing is remembered. Returns what it held."""
        held = self.entries
        self.entries, self.top, self.added = {}, (0, 0), 0
        self.destroy_group()
        return held


def key(entry):
    ms, _, number = entry.partition(b"-")
    return int(ms), int(number)
