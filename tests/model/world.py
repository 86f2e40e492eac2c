"""What Redis must hold after every operation: the scripts once more, in Python. Here what a message goes through."""

import re
from collections import Counter
from contextlib import contextmanager

from streamq.core.failure import clip
from tests.model.entries import LEVEL_OF, LEVELS, carry, letter, read
from tests.model.streams import Pending, Stream, key
from tests.support import pack_fields, unpack_fields

QUEUE = b"orders"
UID = re.compile(rb"<(\d+)>")  # every message carries its own number in its bytes, wherever it lies
ALONE, SMALL, MAX_DELIVERIES = 1000, 256, 6
SECOND, MINUTE, HOUR = 1000, 60_000, 3_600_000
WINDOW, ONCE = 5 * MINUTE, 90 * MINUTE
MALFORMED = b"no payload, a bad priority, a doubled field, or bytes that do not unpack"
LEFT = ("done", "dropped", "dead", "cancelled", "evicted", "purged", "written_off")


def uid_of(flat):
    return int(UID.search(b"".join(flat))[1])


class World:
    """The state of one queue and of the dead letters, and what each script makes of it.

    Args: the time of the server in milliseconds, and whether it is a Cluster: there dead letters move in two steps.
    """

    def __init__(self, now, *, clustered):
        self.now, self.clustered = now, clustered
        self.streams = {level: Stream() for level in LEVELS}
        self.due, self.bodies = {}, {}  # delayed messages: member -> score, member -> packed
        self.ledger = Counter()
        self.seen = [(set(), 0), (set(), 0)]  # ids accepted lately, and until when they are kept
        self.once = {}  # idempotency key -> (id, until when)
        self.workers = {}  # consumer -> last beat
        self.dead_letter, self.way = Stream(), Stream()  # the way: {queue:NAME}:dead
        self.dead_letter_ledger = Counter()
        self.moving, self.returning = set(), set()  # dead letters that have arrived elsewhere and not yet left here
        self.marks = {}  # of the two-step moves, with what they say
        self.alive = set()  # numbers of the messages that must lie somewhere, each in one place
        self.outside = self.letters_outside = 0  # messages that left outside the protocol
        self.torn = False  # somebody deleted one of the two halves of the delayed messages

    # --- the law

    @property
    def imbalance(self):
        foreign = sum(max(0, stream.added - self.ledger[f"added:{level}"]) for level, stream in self.streams.items())
        left = sum(self.ledger[name] for name in LEFT)
        return self.ledger["accepted"] + self.ledger["replayed"] + foreign - left - self.length

    @property
    def letter_imbalance(self):
        """Between the two steps of a move a letter lies in two places; of a replay it counts and still lies here."""
        gone = self.ledger["replayed"] + self.dead_letter_ledger["purged"] + self.dead_letter_ledger["written_off"]
        lying = len(self.dead_letter.entries) + len(self.way.entries) - len(self.moving) - len(self.returning)
        return self.ledger["dead"] - gone - lying

    @contextmanager
    def by_others(self):
        """Plain commands of somebody: what they take or hide moves the law. No script does."""
        before, letters = self.imbalance, self.letter_imbalance
        yield
        self.outside += self.imbalance - before
        self.letters_outside += self.letter_imbalance - letters

    @property
    def deleted_streams(self):
        return [level for level, stream in self.streams.items() if stream.added < self.ledger[f"added:{level}"]]

    # --- helpers

    @property
    def length(self):
        return sum(len(stream.entries) for stream in self.streams.values()) + len(self.due)

    @property
    def dead(self):
        """Where the scripts of the queue write dead letters."""
        return self.way if self.clustered else self.dead_letter

    def turn(self, now):
        """The time of the server is another one."""
        self.now = now
        self.seen = [(set(), 0) if now > until else (ids, until) for ids, until in self.seen]
        self.once = {name: (first, until) for name, (first, until) in self.once.items() if now <= until}

    def owned(self, level, entry, consumer, token):
        held = self.streams[level].group().get(entry)
        return held is not None and held.consumer == consumer and held.times == token

    def gone(self, flat):
        self.alive.difference_update(map(int, UID.findall(b"".join(flat))))

    def take(self, level, entry):
        """The body of a pending entry; without one it is no longer pending."""
        flat = self.streams[level].entries.get(entry)
        if flat is None:
            del self.streams[level].pending[entry]
            self.ledger["vanished"] += 1
        return flat

    def add(self, level, flat):
        """Returns whether the stream took it."""
        if self.streams[level].add(self.now, flat) is None:
            return False
        self.ledger[f"added:{level}"] += 1
        return True

    def remove(self, level, entry):
        self.streams[level].pending.pop(entry, None)
        self.streams[level].entries.pop(entry, None)

    def wait(self, level, entry, flat, delay_ms):
        member = read(flat)[b"id"]
        while member in self.due:
            member += b"~%b-%b" % (level.encode(), entry)
        self.due[member], self.bodies[member] = self.now + delay_ms, pack_fields(flat)

    def bury(self, flat, **about):
        known = {name.encode(): value for name, value in about.items()}
        about = {b"original_queue": QUEUE, b"failed_at": b"%d" % self.now} | known
        self.dead.add(self.now, letter(flat, about))
        self.ledger["dead"] += 1

    # --- coming in

    def publish(self, drafts, max_length):
        bucket = self.now // WINDOW
        fresh, older = self.seen[bucket % 2][0], self.seen[(bucket + 1) % 2][0]
        words = [self._accept(draft, max_length, fresh, older) for draft in drafts]
        if "OK" in words:
            self.seen[bucket % 2] = fresh, (bucket + 2) * WINDOW - 1
            self.ledger["accepted"] += words.count("OK")
        return words

    def _accept(self, draft, max_length, fresh, older):
        name, once = draft.id.encode(), draft.idempotency_key
        if name in fresh or name in older or name in self.due:
            return "DUP"
        if once in self.once:
            return f"IDEM {self.once[once][0].decode()}"
        if self.length >= max_length:
            return "FULL"
        due = draft.due_ms or (draft.delay_ms and self.now + draft.delay_ms)
        if due > self.now:
            self.due[name], self.bodies[name] = due, pack_fields(draft.fields)
        elif not self.add(draft.level, draft.fields):
            return "ERR"
        fresh.add(name)
        self.alive.add(uid_of(draft.fields))
        if once is not None:
            wait = max(draft.delay_ms, draft.due_ms - self.now, 0)
            self.once[once] = name, self.now + max(ONCE, wait + HOUR)
        return "OK"

    def promote(self, limit, max_now):
        """Returns what was moved, what was buried and when the next one is due; None when the clock has jumped."""
        if 0 < max_now < self.now:
            return None
        due = sorted((score, member) for member, score in self.due.items() if score <= self.now)[:limit]
        moved = dead = 0
        for _, member in due:
            packed = self.bodies.get(member)
            flat = unpack_fields(packed) if packed is not None else None
            fields = read(flat) if flat is not None else None
            if fields is None:
                about = {"original_id": member, "retry_count": b"0", "deliveries": b"0"}
                self.bury([packed or b""], reason=b"malformed", error=MALFORMED, **about)
                dead += 1
            elif self._come_in(member, fields):
                moved += 1
            else:
                self.due[member] = self.now + MINUTE
                continue
            del self.due[member]
            self.bodies.pop(member, None)
        self.ledger["promoted"] += moved
        return moved, dead, min(self.due.values(), default=None)

    def _come_in(self, member, fields):
        level = LEVEL_OF[fields.get(b"priority", b"3")]
        counters = {b"retry_count": b"0", b"deliveries": b"0"} | fields
        return self.add(level, carry({b"id": member} | fields, level, member, counters))

    # --- in hands

    def fetch(self, consumer, level, count):
        stream = self.streams[level]
        stream.group()
        found = stream.undelivered()[:count]
        for entry in found:
            stream.pending[entry] = Pending(consumer, self.now)
            stream.last = key(entry)
        return found

    def alone(self, consumer, delivery, *, marked):
        level, entry = delivery.level, delivery.entry_id.encode()
        wanted = delivery.token + (ALONE if marked else -ALONE)
        if self.owned(level, entry, consumer, wanted):
            return wanted
        if not self.owned(level, entry, consumer, delivery.token) or self.take(level, entry) is None:
            return None
        self.streams[level].pending[entry] = Pending(consumer, self.now, wanted)
        return wanted

    # --- going out

    def ack(self, entries, counter_name):
        """Returns how many were counted. A message that somebody had deleted was done nevertheless."""
        total = 0
        for level, entry in entries:
            stream, name = self.streams[level], entry.encode()
            pending, flat = stream.pending.pop(name, None), stream.entries.pop(name, None)
            if flat is not None:
                self.gone(flat)
            elif pending is not None:
                self.outside -= 1
            counted = pending is not None or flat is not None
            self.ledger[counter_name if counted else "late_ack"] += 1
            total += counted
        return total

    def retry(self, consumer, items):
        def send_to_wait(_, outcome, level, entry, flat):
            fields = read(flat)
            if fields is None:
                return "KEPT"
            counters = {b"retry_count": b"%d" % outcome.retry_count, b"deliveries": b"%d" % outcome.deliveries}
            counters[b"held_since"] = b"%d" % outcome.held_since if outcome.held_since else None
            counters[b"alone"] = b"%d" % outcome.alone if outcome.alone else None
            self.wait(level, entry, carry(fields, level, entry, counters), outcome.delay_ms)
            self.ledger[str(outcome.why)] += 1
            return "OK"

        return self._settle(consumer, items, send_to_wait)

    def bury_all(self, consumer, items, *, small):
        def bury(delivery, outcome, _, entry, flat):
            error = (clip(outcome.error, SMALL) if small else outcome.error).encode()
            self.bury(
                flat, original_id=delivery.message_id.encode(), original_entry=entry, reason=outcome.reason.encode(),
                error=error, traceback=b"" if small else outcome.traceback.encode(),
                fingerprint=b"" if small else outcome.fingerprint.encode(), worker=consumer.encode(),
                retry_count=b"%d" % outcome.retry_count, deliveries=b"%d" % delivery.losses,
            )  # fmt: skip
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
            if not self.add(level, carry(fields, level, entry, counters)):
                return "KEPT"
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
            if words[-1] == "OK":
                self.remove(level, entry)
        return words

    # --- gone

    def delete(self, name):
        """DEL of one of the keys."""
        match name:
            case "seen_0" | "seen_1":
                self.seen[int(name[-1])] = set(), 0
            case "ledger":
                self.ledger.clear()
            case "workers":
                self.workers.clear()
            case "delayed":
                self.torn = True
                for member in self.due:
                    self.gone([self.bodies.get(member, b"")])
                self.due.clear()
            case "messages":
                self.torn = True
                for member in self.due:
                    self.gone([self.bodies.get(member, b"")])
                self.bodies.clear()
            case _:
                self._delete_stream(name)

    def _delete_stream(self, name):
        if name == "dead":
            stream, elsewhere = self.dead, self.moving if self.clustered else self.returning
        elif name == "dead_letter":
            stream, elsewhere = self.dead_letter, self.returning
        else:
            stream, elsewhere = self.streams[name], set()
        for entry, flat in stream.delete().items():
            if entry not in elsewhere:
                self.gone(flat)
        elsewhere.clear()
