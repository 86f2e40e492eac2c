"""Everything else that happens to a queue: other producers, operators, other people's commands, and time."""

from enum import Enum

from hypothesis import strategies as st

from streamq.store import across
from streamq.store.across import MARK_MS
from streamq.store.dead_letters import DeadLetter
from streamq.store.scripts import NEEDS, script
from tests.model.driver import GROUP, ONCE_NAMES, now, often, pairs
from tests.model.entries import LEVELS
from tests.model.streams import MOST
from tests.model.work import CONSUMERS, COUNT, FAULT, LEVEL, MOST_WAITING, PICK, PICKS, RARELY, Work, picked
from tests.model.world import HOUR, MAX_DELIVERIES, MINUTE, QUEUE, UID, WINDOW
from tests.support import pack_fields

MOST_FOREIGN = 32
MOST_REMEMBERED = 6
# After how many commands a caller dies who needs several; None: it does not.
STEPS = st.sampled_from((None, None, 0, 1, 2, 3, 4, 5))


class Which(Enum):
    """Which dead letters somebody deals with."""

    THERE = "those that lie there"
    HALF_GONE = "those whose replay has not come to its end"
    REMEMBERED = "those that somebody has seen once"


WHICH = st.sampled_from([Which.THERE] * 4 + [Which.HALF_GONE] * 2 + [Which.REMEMBERED])
SINGLE = ("seen_0", "seen_1", "ledger", "workers", "delayed", "messages", "dead_letter", "dead")


class Disorder(Work):
    """The whole machine."""

    # --- other producers

    @often(6, level=LEVEL, kind=st.integers(0, 13), pick=PICK)
    def foreign(self, level, kind, pick):
        """A plain XADD, mostly of what one expects."""
        if self.world.length >= MOST_FOREIGN:
            return
        entry = [b"payload", self.payload(), *self.oddities(4 if kind in (8, 9) else kind, pick)]
        if kind == 3:
            entry[0] = b"body"
        if self.world.streams[level].top != (MOST, MOST):
            self.raw("XADD", self.keys.stream(level), "*", *entry)
            with self.world.by_others():
                self.world.streams[level].add(self.world.now, entry)
            self.world.alive.add(self.numbers)

    def oddities(self, kind, pick):
        number = b"%d" % pick
        return {
            0: [b"id", self.names[-pick % len(self.names)].encode()] if self.names else [],
            1: [b"priority", (b"1", b"2", b"3", b"4", b"5", b"")[pick % 6]],
            2: [b"payload", b"{}"],
            4: [b"deliveries", b"%d" % (pick % (2 * MAX_DELIVERIES)), b"junk", b"x"],
            5: [b"alone", b"%d" % (pick % 4), b"deliveries", b"2", b"signature", b"v1,k,m"],
            6: [b"deliveries", b"nan", b"retry_count", b"-1", b"alone", b"9" * 17, b"held_since", b"x" + number],
            7: self.disguise(pick),
        }.get(kind, [])

    def disguise(self, pick):
        """An id that looks like the second name of another message that is in flight."""
        held = [(level, e, s.entries.get(e)) for level, s in self.world.streams.items() for e in s.pending]
        named = [(level, e, flat[flat.index(b"id") + 1]) for level, e, flat in held if flat and b"id" in flat]
        for level, entry, name in picked(named, [pick]):
            return [b"id", b"%b~%b-%b" % (name, level.encode(), entry)]
        return []

    @often(3, level=LEVEL, really=st.sampled_from((False, False, True)))
    def exhaust(self, level, really):
        """Somebody uses up the last id of a stream, of one that is worked on if there is one: it takes no more."""
        level = next((name for name, stream in self.world.streams.items() if stream.pending), level)
        stream = self.world.streams[level]
        if really and stream.top != (MOST, MOST) and self.world.length < MOST_FOREIGN:
            entry = [b"payload", self.payload()]
            self.raw("XADD", self.keys.stream(level), f"{MOST}-{MOST}", *entry)
            with self.world.by_others():
                stream.top = (MOST, MOST - 1)
                stream.add(0, entry)
            self.world.alive.add(self.numbers)

    # --- time

    @often(
        9,
        ms=st.sampled_from((1, 1, 1000, 1000, 2999, 4000, 10_000, 12_000, 12_001, 30_000, WINDOW, HOUR)),
        beats=st.booleans(),
    )
    def pass_time(self, ms, beats):
        """Some time later; other workers have beaten all the while, or nobody has."""
        self.turn(self.world.now + ms)
        if beats and "!seen" in self.world.workers:
            self.world.workers["!seen"] = b"%d" % self.world.now
            self.raw("HSET", self.keys.workers, "!seen", self.world.now)

    @often(1, ms=st.sampled_from((1, 1999, 2001, MINUTE, HOUR)))
    def step_back(self, ms):
        """The clock is set back. Not below the last deletion of a stream: then ids would come a second time."""
        self.turn(max(self.floor, self.world.now - ms))

    @often(1, consumer=st.sampled_from((*CONSUMERS, "w9")), fault=FAULT)
    def forget(self, consumer, fault):
        def act():
            return now(self.store.forget(consumer, dead_after_ms=MINUTE))

        self.perform(act, lambda _: self.world.forget(consumer, MINUTE), fault)

    @often(4, picks=PICKS)
    def due(self, picks):
        """Nobody has to wait for an hour: the due time of these is now, or was."""
        for n, member in enumerate(picked(self.world.due, picks)):
            self.world.due[member] = self.world.now - (n % 2)
            self.raw("ZADD", self.keys.delayed, "XX", self.world.due[member], member)

    # --- operators

    @often(1, fault=FAULT)
    def ensure(self, fault):
        self.perform(lambda: now(self.store.ensure()), lambda _: self.world.ensure(NEEDS), fault)

    @often(1, picks=PICKS, fault=FAULT)
    def cancel(self, picks, fault):
        members = [member.decode() for member in picked(self.world.due, picks)] + ["never"]
        self.perform(lambda: now(self.store.cancel(members)), lambda _: self.world.cancel(members), fault)

    @often(1, level=LEVEL, wanted=COUNT, more=st.sampled_from((None, 0, 1)), fault=FAULT)
    def evict(self, level, wanted, more, fault):
        most = MOST_WAITING if more is None else self.world.length + more

        def act():
            return now(self.store.evict(level, max_length=most, wanted=wanted))

        overfull = self.world.length > most  # one goes for each newcomer, every time
        self.perform(act, lambda _: self.world.evict(level, most, wanted), fault, repeatable=not overfull)

    @often(1, level=LEVEL, picks=PICKS, fault=FAULT)
    def purge(self, level, picks, fault):
        ids = [*picked(self.world.streams[level].entries, picks), b"1-1"]
        keys = [self.keys.stream(level), self.keys.ledger]

        def act():
            return now(self.bench.run(script("purge"), keys, [GROUP, *ids]))

        self.perform(act, lambda _: self.world.purge(level, ids), fault)

    @often(1)
    def write_off(self):
        """Somebody has looked into a difference and books it."""
        outside, letters = self.world.outside, self.world.letters_outside
        if outside:
            now(self.auditor.write_off(QUEUE.decode(), outside))
            self.world.ledger["written_off"] += outside
            self.world.outside = 0
        if letters:
            now(self.auditor.write_off_dead_letters(letters))
            self.world.dead_letter_ledger["written_off"] += letters
            self.world.letters_outside = 0

    # --- dead letters

    def some_letters(self, picks, which):
        """Dead letters as they lie there, or as somebody remembers them."""
        there = self.world.dead_letter.entries
        half = [(entry, there[entry]) for entry in there if entry in self.world.returning]
        pool = {Which.THERE: list(there.items()), Which.HALF_GONE: half, Which.REMEMBERED: self.read}[which]
        found = picked(pool or list(there.items()), picks)
        self.read = [*self.read, *found][-MOST_REMEMBERED:]
        return found

    @often(1, picks=PICKS, which=WHICH, steps=STEPS, fault=FAULT)
    def purge_letters(self, picks, which, steps, fault):
        found = self.some_letters(picks, which)
        ids, letters = [entry for entry, _ in found], [as_letter(entry, flat) for entry, flat in found]

        def model(full):
            return self.world.purge_letters(ids, self.steps, full=full)

        self.perform(lambda: now(self.letters.purge(letters)), model, fault, steps=steps)

    @often(6, picks=PICKS, which=WHICH, force=st.booleans(), steps=STEPS, fault=FAULT)
    def replay(self, picks, which, force, steps, fault):
        found = self.some_letters(picks, which)
        letters = [as_letter(entry, flat) for entry, flat in found]

        def act():
            return list(now(self.letters.replay_batch(QUEUE.decode(), letters, force=force)))

        def model(full):
            if not self.world.clustered:
                return self.world.replay([entry for entry, _ in found], force=force)
            return [self.world.replay_across(entry, flat, self.steps, force=force, full=full) for entry, flat in found]

        self.perform(
            act, model, fault, repeatable=not self.world.clustered, steps=steps if self.world.clustered else None
        )

    @often(6, only=lambda self: self.world.clustered, steps=STEPS, fault=FAULT)
    def move(self, steps, fault):
        self.pages = [*self.pages, *self.world.way.entries.items()][-MOST_REMEMBERED:]
        self.perform(self._move, lambda _: self.world.move(self.steps), fault, repeatable=False, steps=steps)

    def _move(self):
        return now(across.move(self.bench, self.keyspace, QUEUE.decode()))

    @often(2, only=lambda self: self.pages, pick=PICK, steps=STEPS, fault=FAULT)
    def move_late(self, pick, steps, fault):
        """A mover that was stopped goes on with a page that it read long ago."""
        entry, flat = self.pages[pick % len(self.pages)]
        name = dict(pairs(flat)).get(b"original_id", b"").decode()
        mark = self.keyspace.moved(QUEUE.decode(), entry.decode(), name)

        def act():
            now(self.bench.run(script("move"), [self.keyspace.dead_letter, mark], [MARK_MS, *flat]))
            now(self.bench.execute("XDEL", self.keys.dead, entry))

        self.perform(act, lambda _: self.world.move_one(entry, flat, self.steps), fault, steps=steps)

    # --- other people's commands

    @often(1, level=LEVEL)
    def destroy(self, level):
        if self.world.streams[level].last is not None:
            self.raw("XGROUP", "DESTROY", self.keys.stream(level), GROUP)
            self.world.streams[level].destroy_group()

    @often(3, level=LEVEL, pick=PICK)
    def vanish(self, level, pick):
        """Somebody deletes an entry that a worker holds."""
        stream = self.world.streams[level]
        for entry in picked([e for e in stream.pending if e in stream.entries], [pick]):
            self.raw("XDEL", self.keys.stream(level), entry)
            with self.world.by_others():
                self.world.gone(stream.entries.pop(entry))

    @often(1, picks=PICKS, how=st.integers(0, 5))
    def corrupt(self, picks, how):
        for member in picked(self.world.due, picks[:1]):
            known = UID.search(self.world.bodies.get(member, b""))
            if known:
                mark = b"<%b>" % known[1]
                self.world.bodies[member] = (
                    mark, b"99:%b," % mark, pack_fields([b"payload", mark, b"id"]), pack_fields([b"x", mark]),
                    pack_fields([b"payload", mark, b"payload", b""]),
                    pack_fields([b"payload", mark, b"priority", b"0"]),
                )[how]  # fmt: skip
                self.raw("HSET", self.keys.messages, member, self.world.bodies[member])

    @often(1, name=st.sampled_from(ONCE_NAMES))
    def delete_once(self, name):
        self.raw("DEL", self.keyspace.once(QUEUE.decode(), name))
        self.world.once.pop(name, None)

    @often(2, name=st.sampled_from((*LEVELS, *SINGLE)), verb=st.sampled_from(("DEL", "UNLINK")), really=RARELY)
    def delete(self, name, verb, really):
        """Somebody deletes a whole key; sooner a stream that takes no more."""
        used_up = [level for level, stream in self.world.streams.items() if stream.top == (MOST, MOST)]
        if not really and not used_up:
            return
        name = name if really else used_up[0]
        self.turn(self.latest + 1)
        self.floor = self.world.now
        self.raw(verb, self.keyspace.dead_letter if name == "dead_letter" else getattr(self.keys, name))
        with self.world.by_others():
            self.world.delete(name)
        if name == "dead":
            self.pages = []


def as_letter(entry, flat):
    return DeadLetter(entry.decode(), dict(pairs(flat)))
