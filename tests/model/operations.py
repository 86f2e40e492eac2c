"""What may happen to a queue, at random."""

from streamq.core.message import Draft
from streamq.core.outcome import DeadLetter, Reason, Retry, Wait
from streamq.store.scripts import script
from streamq.store.streams import NO_CURSORS
from tests.contract.desk import FAR, GROUP
from tests.model.driver import ONCE, Driver, pairs
from tests.model.entries import LEVELS, NUMBER_OF, pack
from tests.model.world import MAX_DELIVERIES, QUEUE, UID, NoGroup

CONSUMERS = ("w1", "w2", "w3", "w4")
WINDOW = 2**41  # milliseconds: no window ends while this runs
HOUR = 3_600_000  # lease and silence: only what is made to look old is old
MOST_WAITING, MOST_FOREIGN, MOST_LETTERS, MOST_HELD = 25, 32, 10, 40

# What is done, and how often.
WEIGHTS = {
    "publish": 12, "foreign": 6, "fetch": 20, "ack": 14, "retry": 8, "dead": 5, "release": 5, "alone": 4, "extend": 6,
    "reclaim": 10, "promote": 9, "age": 7, "silence": 2, "outage": 1, "grace_ends": 3, "due": 7, "corrupt": 2,
    "cancel": 2, "evict": 2, "purge": 1, "purge_letters": 2, "replay": 3, "destroy": 1, "ensure": 1, "forget": 2,
    "vanish": 1, "roll": 1, "expire_once": 1,
}  # fmt: skip


class Operations(Driver):
    """A driver with everything that it can do."""

    async def run(self, operations):
        names, weights = list(WEIGHTS), list(WEIGHTS.values())
        await self.compare()
        while self.done < operations:
            name = self.rng.choices(names, weights)[0]
            if len(self.world.letters) > MOST_LETTERS:
                name = "purge_letters"
            self.trace.append(f"{self.done} {name}")
            await getattr(self, name)()
            self.done += 1

    # --- coming in

    def payload(self):
        self.numbers += 1
        return self.numbers, b'{"u":"<%d>"}' % self.numbers

    def name(self):
        if self.names and self.rng.random() < 0.15:
            return self.rng.choice(self.names)
        self.names.append(f"m{self.numbers}")
        return self.names[-1]

    def level(self):
        return self.rng.choices(LEVELS, (1, 2, 5, 2))[0]

    def draft(self):
        number, payload = self.payload()
        name, level = self.name(), self.level()
        fields = [b"id", name.encode(), b"queue", QUEUE, b"priority", NUMBER_OF[level], b"payload", payload]
        delay_ms = FAR if self.rng.random() < 0.3 else 0
        once = self.rng.choice(ONCE) if self.rng.random() < 0.15 else None
        return number, Draft(name, level, fields, delay_ms, 0, once)

    async def publish(self):
        drafts = [self.draft() for _ in range(self.rng.randint(1, 4))]

        async def act():
            plain = [draft for _, draft in drafts]
            return await self.store.publish(plain, window_ms=WINDOW, max_length=MOST_WAITING, once_ms=HOUR)

        await self.perform(act, lambda full: "OOM" if full else self.world.publish(drafts, MOST_WAITING))

    async def foreign(self):
        if self.world.length >= MOST_FOREIGN:
            return
        level, (_, payload) = self.level(), self.payload()
        entry = [b"payload", payload]
        match self.rng.randrange(9):
            case 0:
                entry += [b"id", self.rng.choice(self.names).encode()] if self.names else []
            case 1:
                entry += [b"priority", self.rng.choice([b"1", b"2", b"3", b"4", b"5", b""])]
            case 2:
                entry += [b"payload", b"{}"]
            case 3:
                entry[0] = b"body"
            case 4:
                entry += [b"deliveries", b"%d" % self.rng.randint(0, 2 * MAX_DELIVERIES), b"junk", b"x"]
            case 5:
                entry += [b"alone", b"%d" % self.rng.randint(0, 3), b"deliveries", b"2", b"signature", b"v1,k,m"]
            case 6:
                entry += [b"deliveries", b"nan", b"retry_count", b"-1", b"alone", b"9" * 17, b"held_since", b"x"]
            case 7:
                entry += self.disguise()
        self.raw("XADD", self.keys.stream(level), "*", *entry)
        self.world.foreign(level, entry)
        await self.compare()

    def disguise(self):
        """An id that looks like the second name of another message that is in flight."""
        held = [(level, e, stream.body(e)) for level, stream in self.world.streams.items() for e in stream.pending]
        named = [(level, e, flat[flat.index(b"id") + 1]) for level, e, flat in held if flat and b"id" in flat]
        if not named:
            return []
        level, entry, name = self.rng.choice(named)
        return [b"id", b"%b~%b-%b" % (name, level.encode(), entry)]

    async def promote(self):
        limit = self.rng.randint(1, 5)
        if self.rng.random() < 0.1:
            found = await self.store.promote(limit=limit, max_now_ms=1)
            assert found.clock_jumped
            return await self.compare()
        last = []

        async def act():
            last[:] = [await self.store.promote(limit=limit, max_now_ms=self._now + HOUR)]
            return last[0].moved, last[0].dead

        await self.perform(act, lambda _: self.world.promote(last[0].now_ms, limit), repeatable=False)
        waiting = [score for score, _ in self.world.delayed.values()]
        assert last[0].next_due_ms == (min(waiting) if waiting else None)
        return None

    # --- in hands

    def hold(self, consumer, deliveries):
        self.hands += [(consumer, delivery) for delivery in deliveries]
        while len(self.hands) > MOST_HELD:
            self.hands.pop(self.rng.randrange(len(self.hands)))

    def some_held(self, most=4):
        """A consumer and deliveries that it believes to hold: its own mostly, current ones or long settled."""
        if not self.hands:
            return "w1", []
        consumer = self.rng.choice(self.hands)[0]
        mine = [d for name, d in self.hands if name == consumer or self.rng.random() < 0.05]
        return consumer, self.rng.sample(mine, min(len(mine), self.rng.randint(1, most)))

    def drop(self, deliveries):
        """A worker forgets what it settled; sometimes it does not, and comes back with it."""
        if self.rng.random() < 0.7:
            self.hands = [(name, d) for name, d in self.hands if d not in deliveries]

    async def fetch(self):
        consumer, level, count = self.rng.choice(CONSUMERS), self.level(), self.rng.randint(1, 4)
        try:
            expected = [entry for entry, _ in self.world.fetch(consumer, level, count)]
        except NoGroup:
            return await self.ensure()
        found = self.desk.fetch(consumer, level, count)
        assert [delivery.entry_id.encode() for delivery in found] == expected
        if self.rng.random() > 0.05:  # else the reply is lost, and only a reclaim finds them
            self.hold(consumer, found)
        return await self.compare()

    async def extend(self):
        consumer, deliveries = self.some_held(6)
        about = self.rng.choice(["", "{}"])

        async def act():
            beat = self.desk.beats.extend(
                self.keys, GROUP, consumer, lease_ms=HOUR, silent_after_ms=HOUR, deliveries=deliveries, about=about
            )
            return [delivery for delivery, _ in beat.lost], set(beat.silent)

        await self.perform(act, lambda _: self.world.extend(consumer, deliveries, self.guard_time(), about))

    async def alone(self):
        consumer, deliveries = self.some_held(1)
        for delivery in deliveries:

            async def act(delivery=delivery):
                return await self.store.alone(consumer, delivery)

            token = await self.perform(act, lambda _, delivery=delivery: self.world.alone(consumer, delivery))
            delivery.token = token or delivery.token

    async def reclaim(self):
        consumer, count = self.rng.choice(CONSUMERS), self.rng.randint(1, 4)
        silent = self.rng.sample((*CONSUMERS, "nobody", "!seen"), self.rng.randint(0, 3))
        cursors, last = self.cursors if self.rng.random() < 0.8 else NO_CURSORS, []

        async def act():
            last[:] = [await self.store.reclaim(
                consumer, lease_ms=HOUR, count=count, silent_after_ms=HOUR, max_deliveries=MAX_DELIVERIES,
                cursors=cursors, silent=silent,
            )]  # fmt: skip
            if last[0].grace:
                return None
            taken = [(d.level, d.entry_id.encode(), d.token, d.losses, d.fields) for d in last[0].deliveries]
            return taken, last[0].cursors, last[0].suspects, last[0].dead

        def model(_):
            found = self.world.reclaim(consumer, self.guard_time(), count=count, cursors=cursors, silent=silent)
            return found and ([(*who, dict(pairs(flat))) for *who, flat in found[0]], *found[1:])

        if await self.perform(act, model, repeatable=False):
            self.cursors = last[0].cursors
            self.hold(consumer, last[0].deliveries)

    # --- going out

    async def ack(self):
        _, deliveries = self.some_held()
        counter = self.rng.choice(["done", "done", "dropped"])
        entries = [delivery.key for delivery in deliveries]
        if self.rng.random() < 0.05:
            entries.append(("low", "1-1"))

        async def act():
            return await self.store.ack(entries, counter)

        def model(_):
            total, ghosts = self.world.ack(entries, counter)
            if ghosts:  # its body was booked off when it vanished, and now it is done nevertheless
                self.raw("HINCRBY", self.keys.ledger, "written_off", -ghosts)
                self.world.ledger["written_off"] -= ghosts
            return total

        await self.perform(act, model)
        self.drop(deliveries)

    async def retry(self):
        consumer, deliveries = self.some_held()
        items = [(delivery, self.wait()) for delivery in deliveries]

        async def act():
            return await self.store.retry(consumer, items)

        await self.perform(act, lambda _: self.world.retry(consumer, items))
        self.drop(deliveries)

    def wait(self):
        pick = self.rng.randrange
        delay_ms = self.rng.choice((0, 0, FAR))
        return Retry(self.rng.choice(list(Wait)), delay_ms, pick(4), pick(3), pick(2) * 7, self.rng.choice((0, 0, 1)))

    async def dead(self):
        consumer, deliveries = self.some_held(2)
        letter = DeadLetter(self.rng.choice(list(Reason)), "e" * 300, "t", self.rng.choice(["f", ""]), 3)
        items = [(delivery, letter) for delivery in deliveries]

        async def act():
            return await self.store.dead(consumer, items)

        await self.perform(act, lambda full: self.world.dead(consumer, items, small=full))
        self.drop(deliveries)

    async def release(self):
        consumer, deliveries = self.some_held()

        async def act():
            return await self.store.release(consumer, deliveries)

        await self.perform(act, lambda _: self.world.release(consumer, deliveries))
        self.drop(deliveries)

    # --- the house

    async def cancel(self):
        members = [member.decode() for member in self.some(self.world.delayed, 2)] + ["never"]

        async def act():
            return await self.store.cancel(members)

        await self.perform(act, lambda _: self.world.cancel(members))

    async def evict(self):
        level, wanted = self.level(), self.rng.randint(1, 3)
        most = self.rng.choice((MOST_WAITING, self.world.length, self.world.length + 1))

        async def act():
            return await self.store.evict(level, max_length=most, wanted=wanted)

        overfull = self.world.length > most  # one goes for each newcomer, every time
        await self.perform(act, lambda _: self.world.evict(level, most, wanted), repeatable=not overfull)

    async def purge(self):
        level = self.level()
        ids = [entry for entry, _ in self.some(self.world.streams[level].entries, 3)] + [b"1-1"]
        keys = [self.keys.stream(level), self.keys.ledger]

        async def act():
            return await self.desk.connections.run(script("purge"), keys, [GROUP, *ids])

        await self.perform(act, lambda _: self.world.purge(level, ids))

    async def purge_letters(self):
        ids = [entry for entry, _ in self.some(self.world.letters, 6)] + [b"1-1"]
        keys = [self.desk.keyspace.dead_letter, self.desk.keyspace.dead_letter_ledger]

        async def act():
            return await self.desk.connections.run(script("purge"), keys, ["", *ids])

        await self.perform(act, lambda _: self.world.purge_letters(ids))

    async def replay(self):
        ids, force = [entry for entry, _ in self.some(self.world.letters, 3)] + [b"1-1"], self.rng.random() < 0.5

        async def act():
            reply = await self.desk.connections.run(script("replay"), self.keys, [int(force), *ids])
            return [word.decode() for word in reply]

        await self.perform(act, lambda _: self.world.replay(ids, force=force))

    async def forget(self):
        consumer = self.rng.choice(CONSUMERS)

        async def act():
            return await self.store.forget(consumer, dead_after_ms=HOUR)

        await self.perform(act, lambda _: self.world.forget(consumer))

    async def ensure(self):
        async def act():
            await self.store.ensure()

        await self.perform(act, lambda _: self.world.ensure())

    # --- what happens to them

    def some(self, things, most):
        things = list(things)
        return self.rng.sample(things, min(len(things), self.rng.randint(0, most)))

    def some_pending(self, most):
        held = [(level, entry) for level, stream in self.world.streams.items() for entry in stream.pending]
        return self.some(held, most)

    async def age(self):
        for level, entry in self.some_pending(5):
            held = self.world.streams[level].pending[entry]
            if self.world.streams[level].body(entry) is not None:
                stream = self.keys.stream(level)
                self.raw("XCLAIM", stream, GROUP, held.consumer, 0, entry, "IDLE", 10 * HOUR, "JUSTID")
                held.old = True

    async def silence(self):
        consumer = self.rng.choice(CONSUMERS)
        self.desk.silence(consumer, 10 * HOUR)
        self.world.beats[consumer] = True

    async def outage(self):
        self.world.seen_ms = self._now + self.rng.choice((-20_000, 60_000))
        self.raw("HSET", self.keys.workers, "!seen", self.world.seen_ms)

    async def grace_ends(self):
        self.world.grace_ms = self._now - 1
        self.raw("HSET", self.keys.workers, "!grace", self.world.grace_ms)

    async def due(self):
        for member in self.some(self.world.delayed, 4):
            score = self.rng.randint(1, 1000)
            self.raw("ZADD", self.keys.delayed, "XX", score, member)
            self.world.delayed[member][0] = score

    async def corrupt(self):
        for member in self.some(self.world.delayed, 1):
            mark = b"<%b>" % UID.search(self.world.delayed[member][1])[1]
            bad = [
                mark, b"99:%b," % mark, pack([b"payload", mark, b"id"]), pack([b"x", mark]),
                pack([b"payload", mark, b"payload", b""]), pack([b"payload", mark, b"priority", b"0"]),
            ]  # fmt: skip
            self.world.delayed[member][1] = self.rng.choice(bad)
            self.raw("HSET", self.keys.messages, member, self.world.delayed[member][1])

    async def destroy(self):
        level = self.level()
        self.raw("XGROUP", "DESTROY", self.keys.stream(level), GROUP)
        self.world.destroy(level)
        await self.compare()

    async def vanish(self):
        for level, entry in self.some_pending(1):
            if self.world.streams[level].body(entry) is not None:
                self.raw("XDEL", self.keys.stream(level), entry)
                self.raw("HINCRBY", self.keys.ledger, "written_off", 1)
                self.world.vanish(level, entry)
        await self.compare()

    async def roll(self):
        """A window of ids that were seen lately ends."""
        fresh, older = self.keys.seen_0, self.keys.seen_1
        if self._now // WINDOW % 2:
            fresh, older = older, fresh
        self.raw("DEL", older)
        if self.world.fresh:
            self.raw("RENAME", fresh, older)
        self.world.older, self.world.fresh = self.world.fresh, set()

    async def expire_once(self):
        name = self.rng.choice(ONCE)
        self.raw("DEL", self.desk.keyspace.once("orders", name))
        self.world.once.pop(name, None)
