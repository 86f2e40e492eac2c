"""What publishers and workers do, at random: every script of a message's path, with whatever befalls the caller."""

from enum import Enum

from hypothesis import strategies as st

from streamq.core.message import Draft, delivery_from
from streamq.core.outcome import DeadLetter, Reason, Retry, Wait
from streamq.store.outages import redis_errors
from streamq.store.streams import NO_CURSORS
from tests.model.driver import GROUP, ONCE_NAMES, Driver, Fault, now, often, pairs
from tests.model.entries import LEVELS, NUMBER_OF
from tests.model.world import ALONE, HOUR, MAX_DELIVERIES, ONCE, QUEUE, SECOND, WINDOW

CONSUMERS = ("w1", "w2", "w3")
LEASE, SHORT_LEASE, SILENT = 30 * SECOND, 4 * SECOND, 12 * SECOND
MOST_WAITING, MOST_HELD = 25, 30


class Whose(Enum):
    """Which deliveries a caller settles."""

    OWN = "what it holds"
    STALE = "what it held once, or holds"
    ALIEN = "what others hold"


# Numbers that are drawn name things by their place, so that a failing run shrinks to small ones.
FAULT = st.sampled_from([Fault.NONE] * 14 + [Fault.TWICE] * 4 + list(Fault))
LEVEL = st.sampled_from(("normal", "normal", *LEVELS))
CONSUMER = st.sampled_from(CONSUMERS)
COUNT = st.integers(1, 4)
PICKS = st.lists(st.integers(0, 20), min_size=1, max_size=3)
PICK = st.integers(0, 20)
WHOSE = st.sampled_from([Whose.OWN] * 6 + [Whose.STALE, Whose.STALE, Whose.ALIEN])
RARELY = st.sampled_from([False] * 9 + [True])
LEASES = st.sampled_from([LEASE] * 4 + [SHORT_LEASE])
DELAY = st.sampled_from((0, 0, 0, 0, 1, 3 * SECOND, HOUR))
# How its name is chosen (an old one again, or a new one), how long it waits, until when, and an idempotency key.
MESSAGE = st.tuples(
    st.integers(0, 9), LEVEL, DELAY, st.sampled_from((0, 0, 0, 0, 0, 0, -5, 2 * SECOND)), st.integers(0, 14)
)
WAIT = st.builds(
    Retry, st.sampled_from(list(Wait)), DELAY, st.integers(0, 3), st.integers(0, 3), st.sampled_from((0, 0, 7)),
    st.sampled_from((0, 0, 1)),
)  # fmt: skip
REASON = st.sampled_from(list(Reason))


def picked(things, picks):
    """Some of these, each once."""
    things = list(things)
    return [things[n] for n in dict.fromkeys(pick % len(things) for pick in picks)] if things else []


class Work(Driver):
    """A driver with the operations of publishers and workers."""

    # --- coming in

    def payload(self):
        self.numbers += 1
        return b'{"u":"<%d>"}' % self.numbers

    def draft(self, how, level, delay_ms, due_in, once):
        payload = self.payload()
        again = how >= 8 and self.names
        name = self.names[-how % len(self.names)] if again else f"m{self.numbers}"
        self.names = [*self.names[-9:], name]
        fields = [b"id", name.encode(), b"queue", QUEUE, b"priority", NUMBER_OF[level], b"payload", payload]
        due_ms = self.world.now + due_in if due_in else 0
        return Draft(name, level, fields, delay_ms, due_ms, ONCE_NAMES[once] if once < len(ONCE_NAMES) else None)

    @often(
        10,
        messages=st.lists(MESSAGE, min_size=1, max_size=3),
        room=st.sampled_from([MOST_WAITING] * 5 + [3]),
        fault=FAULT,
    )
    def publish(self, messages, room, fault):
        drafts = [self.draft(*message) for message in messages]

        def act():
            words = now(self.store.publish(drafts, window_ms=WINDOW, max_length=room, once_ms=ONCE))
            return [word[:3] if word.startswith("ERR") else word for word in words]

        def model(full):
            if full:
                raise MemoryError
            return self.world.publish(drafts, room)

        self.perform(act, model, fault)

    @often(6, limit=COUNT, ahead=st.sampled_from((None, None, None, 0, -1)), fault=FAULT)
    def promote(self, limit, ahead, fault):
        max_now = 0 if ahead is None else self.world.now + ahead

        def act():
            done = now(self.store.promote(limit=limit, max_now_ms=max_now))
            assert done.now_ms == self.world.now
            return None if done.clock_jumped else (done.moved, done.dead, done.next_due_ms)

        self.perform(act, lambda _: self.world.promote(limit, max_now), fault, repeatable=False)

    # --- in hands

    def hold(self, consumer, deliveries):
        self.hands += [(consumer, delivery) for delivery in deliveries]
        del self.hands[:-MOST_HELD]

    def held(self, picks, whose):
        """A consumer and deliveries that it holds, or held once, or that others hold."""
        current = [(name, d) for name, d in reversed(self.hands) if self.is_held(name, d)]
        known = current if whose is not Whose.STALE and current else self.hands[::-1]
        if not known:
            return CONSUMERS[0], []
        consumer = known[picks[0] % len(known)][0]
        return consumer, picked([d for name, d in known if (name == consumer) != (whose is Whose.ALIEN)], picks)

    def is_held(self, name, delivery):
        held = self.world.streams[delivery.level].pending.get(delivery.entry_id.encode())
        return held is not None and held.consumer == name and held.times == delivery.token

    def drop(self, deliveries, keeps):
        """A worker forgets what it settled; sometimes it does not, and comes back with it."""
        if not keeps:
            self.hands = [(name, d) for name, d in self.hands if d not in deliveries]

    @often(12, consumer=CONSUMER, level=LEVEL, count=COUNT, fault=FAULT)
    def fetch(self, consumer, level, count, fault):
        """From this level, or from one that has something."""
        if not self.world.streams[level].undelivered():
            level = next((name for name, stream in self.world.streams.items() if stream.undelivered()), level)
        command = ("GROUP", GROUP, consumer, "COUNT", count, "STREAMS", self.keys.stream(level), ">")

        def act():
            with redis_errors():
                reply = self.raw("XREADGROUP", *command)
            found = [item for _, entries in reply or () for item in entries]
            last[:] = [delivery_from(QUEUE.decode(), level, entry, flat) for entry, flat in found]
            return [entry for entry, _ in found]

        last = []
        if self.perform(act, lambda _: self.world.fetch(consumer, level, count), fault, repeatable=False):
            self.hold(consumer, last)

    @often(4, picks=PICKS, whose=WHOSE, about=st.sampled_from(("", "{}")), lease=LEASES, fault=FAULT)
    def extend(self, *, picks, whose, about, lease, fault):
        consumer, deliveries = self.held(picks, whose)
        self.beat(consumer, deliveries, about, lease, fault)

    @often(2, consumer=CONSUMER, fault=FAULT)
    def beat_idle(self, consumer, fault):
        self.beat(consumer, [], "", LEASE, fault)

    def beat(self, consumer, deliveries, about, lease, fault):
        def act():
            beat = self.beats.extend(
                self.keys, GROUP, consumer, lease_ms=lease, silent_after_ms=SILENT, deliveries=deliveries, about=about
            )
            assert beat.now_ms == self.world.now
            return [delivery for delivery, _ in beat.lost], set(beat.silent)

        def model(_):
            return self.world.extend(consumer, deliveries, about, lease=lease, silent_after=SILENT)

        self.perform(act, model, fault)

    @often(3, pick=PICK, whose=WHOSE, fault=FAULT)
    def alone(self, pick, whose, fault):
        consumer, deliveries = self.held([pick], whose)
        for delivery in deliveries:
            marked = delivery.token <= ALONE
            token = self.perform(
                lambda d=delivery, m=marked: now(self.store.alone(consumer, d, marked=m)),
                lambda _, d=delivery, m=marked: self.world.alone(consumer, d, marked=m),
                fault,
            )
            delivery.token = token or delivery.token

    @often(9, consumer=CONSUMER, count=COUNT, silent=PICKS, lease=LEASES, afresh=RARELY, fault=FAULT)
    def reclaim(self, *, consumer, count, silent, lease, afresh, fault):
        silent = picked((*CONSUMERS, "nobody", "!seen"), silent)
        cursors, last = NO_CURSORS if afresh else self.cursors, []

        def act():
            found = now(self.store.reclaim(
                consumer, lease_ms=lease, count=count, silent_after_ms=SILENT, max_deliveries=MAX_DELIVERIES,
                cursors=cursors, silent=silent,
            ))  # fmt: skip
            if found.grace:
                return None
            last[:] = found.deliveries
            taken = [(d.level, d.entry_id.encode(), d.token, d.losses, d.fields) for d in found.deliveries]
            return taken, found.cursors, found.suspects, found.dead, found.vanished

        def model(_):
            found = self.world.reclaim(
                consumer, lease=lease, count=count, silent_after=SILENT, cursors=cursors, silent=silent
            )
            return found and ([(*who, dict(pairs(flat))) for *who, flat in found[0]], *found[1:])

        reply = self.perform(act, model, fault, repeatable=False)
        if reply:
            self.cursors = reply[1]
            self.hold(consumer, last)

    # --- going out

    @often(7, picks=PICKS, whose=WHOSE, dropped=st.booleans(), never=RARELY, keeps=RARELY, fault=FAULT)
    def ack(self, *, picks, whose, dropped, never, keeps, fault):
        _, deliveries = self.held(picks, whose)
        entries = [delivery.key for delivery in deliveries] + [("low", "1-1")] * never
        counter = "dropped" if dropped else "done"
        act, model = lambda: now(self.store.ack(entries, counter)), lambda _: self.world.ack(entries, counter)
        if self.perform(act, model, fault) is not None:
            self.drop(deliveries, keeps)

    @often(5, picks=PICKS, waits=st.lists(WAIT, min_size=1, max_size=3), whose=WHOSE, keeps=RARELY, fault=FAULT)
    def retry(self, *, picks, waits, whose, keeps, fault):
        consumer, deliveries = self.held(picks, whose)
        items = [(delivery, waits[n % len(waits)]) for n, delivery in enumerate(deliveries)]
        act, model = lambda: now(self.store.retry(consumer, items)), lambda _: self.world.retry(consumer, items)
        if self.perform(act, model, fault) is not None:
            self.drop(deliveries, keeps)

    @often(6, picks=PICKS, reason=REASON, long=st.booleans(), whose=WHOSE, keeps=RARELY, fault=FAULT)
    def dead(self, *, picks, reason, long, whose, keeps, fault):
        consumer, deliveries = self.held(picks, whose)
        letter = DeadLetter(reason, "e" * 300, "t", "f", 3) if long else DeadLetter(reason, "e")
        items = [(delivery, letter) for delivery in deliveries]

        def model(full):
            return self.world.bury_all(consumer, items, small=full)

        if self.perform(lambda: now(self.store.dead(consumer, items)), model, fault) is not None:
            self.drop(deliveries, keeps)

    @often(4, picks=PICKS, whose=WHOSE, keeps=RARELY, fault=FAULT)
    def release(self, *, picks, whose, keeps, fault):
        consumer, deliveries = self.held(picks, whose)
        act, model = (
            lambda: now(self.store.release(consumer, deliveries)),
            lambda _: self.world.release(consumer, deliveries),
        )
        if self.perform(act, model, fault) is not None:
            self.drop(deliveries, keeps)
