"""What Redis must hold after every operation: the scripts once more, in Python. Here what a message goes through."""

import re
from collections import Counter
from dataclasses import dataclass, field

from streamq.core.failure import clip
from tests.model.entries import LEVEL_OF, LEVELS, NOW, carry, letter, pack, read, unpack

QUEUE = b"orders"
UID = re.compile(rb"<(\d+)>")  # every message carries its own number in its bytes, wherever it lies
ALONE, SMALL, MAX_DELIVERIES = 1000, 256, 6
GRACE_MS, OUTAGE_MS, STEP_BACK_MS = 10_000, 5000, 2000
MALFORMED = b"no payload, a bad priority, a doubled field, or bytes that do not unpack"


class NoGroup(Exception):
    """Redis would say NOGROUP here; what was done before stands."""


class Delay(int):
    """Milliseconds from the moment of the operation: only Redis knows which score that is."""


@dataclass(slots=True)
class Pending:
    """One entry in the hands of a consumer."""

    consumer: str
    times: int = 1
    old: bool = False  # nobody has renewed it for longer than the lease


@dataclass(slots=True)
class Stream:
    """One level. An entry is [id, flat]; the id is None until Redis was looked at."""

    entries: list = field(default_factory=list)
    last: tuple | None = None  # last delivered id of the group; None: there is no group
    pending: dict = field(default_factory=dict)

    def group(self):
        if self.last is None:
            raise NoGroup
        return self.pending

    def body(self, entry):
        return next((flat for name, flat in self.entries if name == entry), None)

    def undelivered(self):
        return [item for item in self.entries if self.last is None or key(item[0]) > self.last]

    def remove(self, entry):
        """XDEL. Returns the bytes, or None."""
        for n, (name, flat) in enumerate(self.entries):
            if name == entry:
                del self.entries[n]
                return flat
        return None


def key(entry):
    ms, _, seq = entry.partition(b"-")
    return int(ms), int(seq)


def uid_of(flat):
    return int(UID.search(b"".join(flat))[1])


class World:
    """The state of one queue and of the dead letters, and what each script makes of it."""

    def __init__(self):
        self.streams = {level: Stream(last=(0, 0)) for level in LEVELS}
        self.delayed = {}  # member -> [score, packed]; the score is a Delay until Redis was looked at
        self.ledger = Counter()
        self.letters = []  # [id, flat]
        self.purged = 0  # dead letters
        self.fresh, self.older, self.once = set(), set(), {}
        self.beats = {}  # consumer -> whether it is silent
        self.about = set()
        self.seen_ms = self.grace_ms = 0
        self.alive = set()  # numbers of the messages that must lie somewhere, each in one place

    # --- helpers

    @property
    def length(self):
        return sum(len(stream.entries) for stream in self.streams.values()) + len(self.delayed)

    def owned(self, level, entry, consumer, token):
        held = self.streams[level].group().get(entry)
        return held is not None and held.consumer == consumer and held.times == token

    def gone(self, flat):
        self.alive.discard(uid_of(flat))

    def take(self, level, entry):
        """The body of a pending entry; without one it is no longer pending."""
        flat = self.streams[level].body(entry)
        if flat is None:
            del self.streams[level].pending[entry]
            self.ledger["vanished"] += 1
        return flat

    def remove(self, level, entry):
        self.streams[level].pending.pop(entry, None)
        self.streams[level].remove(entry)

    def wait(self, level, entry, flat, delay_ms):
        member = read(flat)[b"id"]
        while member in self.delayed:
            member += b"~%b-%b" % (level.encode(), entry)
        self.delayed[member] = [Delay(delay_ms), pack(flat)]

    def bury(self, flat, **about):
        known = {name.encode(): value for name, value in about.items()}
        self.letters.append([None, letter(flat, {b"original_queue": QUEUE, b"failed_at": NOW} | known)])
        self.ledger["dead"] += 1

    # --- coming in

    def publish(self, drafts, max_length):
        words, seen = [], self.fresh | self.older
        for number, draft in drafts:
            name = draft.id.encode()
            if name in seen or name in self.delayed:
                words.append("DUP")
            elif draft.idempotency_key in self.once:
                words.append(f"IDEM {self.once[draft.idempotency_key].decode()}")
            elif self.length >= max_length:
                words.append("FULL")
            else:
                words.append("OK")
                if draft.delay_ms:
                    self.delayed[name] = [Delay(draft.delay_ms), pack(draft.fields)]
                else:
                    self.streams[draft.level].entries.append([None, draft.fields])
                    self.ledger[f"added:{draft.level}"] += 1
                self.ledger["accepted"] += 1
                self.fresh.add(name)
                seen.add(name)
                self.alive.add(number)
                if draft.idempotency_key is not None:
                    self.once[draft.idempotency_key] = name
        return words

    def foreign(self, level, flat):
        self.streams[level].entries.append([None, flat])
        self.alive.add(uid_of(flat))

    def promote(self, now, limit):
        due = sorted((score, member) for member, (score, _) in self.delayed.items() if score <= now)[:limit]
        moved = 0
        for _, member in due:
            packed = self.delayed.pop(member)[1]
            flat = unpack(packed)
            fields = read(flat) if flat is not None else None
            if fields is None:
                about = {"original_id": member, "retry_count": b"0", "deliveries": b"0"}
                self.bury([packed], reason=b"malformed", error=MALFORMED, **about)
                continue
            level = LEVEL_OF[fields.get(b"priority", b"3")]
            counters = {b"retry_count": b"0", b"deliveries": b"0"} | fields
            self.streams[level].entries.append([None, carry({b"id": member} | fields, level, member, counters)])
            self.ledger[f"added:{level}"] += 1
            moved += 1
        if moved:
            self.ledger["promoted"] += moved
        return moved, len(due) - moved

    # --- in hands

    def fetch(self, consumer, level, count):
        stream = self.streams[level]
        stream.group()
        found = stream.undelivered()[:count]
        for entry, _ in found:
            stream.pending[entry] = Pending(consumer)
            stream.last = key(entry)
        return found

    def guard(self, now):
        """The service guard. Returns whether silence proves nothing now."""
        seen = self.seen_ms
        if seen and (now - seen > OUTAGE_MS or seen > now + STEP_BACK_MS):
            self.grace_ms = now + GRACE_MS
        self.seen_ms = now
        return now < self.grace_ms <= now + GRACE_MS

    def extend(self, consumer, deliveries, now, about):
        self.guard(now)
        self.beats[consumer] = False
        lost = []
        for delivery in deliveries:
            level, entry = delivery.level, delivery.entry_id.encode()
            if not self.owned(level, entry, consumer, delivery.token) or self.take(level, entry) is None:
                lost.append(delivery)
            else:
                self.streams[level].pending[entry].old = False
        if about:
            self.about.add(consumer)
        return lost, {name for name, silent in self.beats.items() if silent}

    def alone(self, consumer, delivery):
        level, entry, token = delivery.level, delivery.entry_id.encode(), delivery.token
        if self.owned(level, entry, consumer, token + ALONE):
            return token + ALONE
        if not self.owned(level, entry, consumer, token) or self.take(level, entry) is None:
            return None
        held = self.streams[level].pending[entry]
        held.times, held.old = token + ALONE, False
        return held.times

    # --- going out

    def ack(self, entries, counter_name):
        """Returns how many were counted, and how many of those had lost their body before."""
        total = ghosts = 0
        for level, entry in entries:
            stream, name = self.streams[level], entry.encode()
            pending = stream.pending.pop(name, None)
            flat = stream.remove(name)
            if flat is not None:
                self.gone(flat)
            counted = pending is not None or flat is not None
            self.ledger[counter_name if counted else "late_ack"] += 1
            total += counted
            ghosts += pending is not None and flat is None
        return total, ghosts

    def retry(self, consumer, items):
        def send_to_wait(_, outcome, level, entry, flat):
            fields = read(flat)
            if fields is None:
                return "KEPT"
            counters = {b"retry_count": b"%d" % outcome.retry_count, b"deliveries": b"%d" % outcome.deliveries}
            counters[b"held_since"] = b"%d" % outcome.held_since if outcome.held_since else None
            counters[b"alone"] = b"%d" % outcome.alone if outcome.alone else None
            self.wait(level, entry, carry(fields, level, entry, counters), outcome.delay_ms)
            self.remove(level, entry)
            self.ledger[str(outcome.why)] += 1
            return "OK"

        return self._settle(consumer, items, send_to_wait)

    def dead(self, consumer, items, *, small):
        def bury(delivery, outcome, level, entry, flat):
            error = (clip(outcome.error, SMALL) if small else outcome.error).encode()
            self.bury(
                flat, original_id=delivery.message_id.encode(), original_entry=entry, reason=outcome.reason.encode(),
                error=error, traceback=b"" if small else outcome.traceback.encode(),
                fingerprint=b"" if small else outcome.fingerprint.encode(), worker=consumer.encode(),
                retry_count=b"%d" % outcome.retry_count, deliveries=b"%d" % delivery.losses,
            )  # fmt: skip
            self.remove(level, entry)
            return "OK"

        return self._settle(consumer, items, bury)

    def release(self, consumer, deliveries):
        def put_back(delivery, _, level, entry, flat):
            fields = read(flat)
            if fields is None:
                return "KEPT"
            counters = {name: fields.get(name) for name in (b"retry_count", b"held_since", b"alone")}
            if delivery.losses or b"deliveries" in fields:
                counters[b"deliveries"] = b"%d" % delivery.losses
            self.streams[level].entries.append([None, carry(fields, level, entry, counters)])
            self.remove(level, entry)
            self.ledger[f"added:{level}"] += 1
            self.ledger["released"] += 1
            return "OK"

        return self._settle(consumer, [(delivery, None) for delivery in deliveries], put_back, marked=True)

    def _settle(self, consumer, items, write, *, marked=False):
        """Args: `marked`: also what was marked to run alone by a call whose reply was lost."""
        words = []
        for delivery, outcome in items:
            level, entry = delivery.level, delivery.entry_id.encode()
            tokens = (delivery.token, delivery.token + ALONE) if marked else (delivery.token,)
            if not any(self.owned(level, entry, consumer, token) for token in tokens):
                self.ledger["fenced"] += 1
                words.append("LOST")
                continue
            flat = self.take(level, entry)
            words.append("VANISHED" if flat is None else write(delivery, outcome, level, entry, flat))
        return words
