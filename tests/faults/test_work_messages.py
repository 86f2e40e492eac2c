"""Faults of messages and of those who deploy: what nobody can read, what nobody knows yet, what kills its worker."""

import json
import subprocess
import sys
from collections import Counter

import pytest

from streamq import Context
from streamq.core.events import Settled
from tests.e2e.rig import KEYS, QUICK, SECRET
from tests.faults.house import QUEUE, eventually, serving
from tests.support import wait_until
from tests.unit.foreign_signer import sign

pytestmark = pytest.mark.faults


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(120)
def test_w05_poison_is_found_out_and_its_neighbours_are_not(rig):
    """A message that kills whoever runs it is buried as poison; of forty that ran beside it none is."""
    rig.configure({**QUICK, "lease": "1s", "retry_delay": "50ms"})
    innocents = [f"innocent{number}" for number in range(40)]
    rig.publish("slow", *innocents[:20], payload={"seconds": 0.05})
    (poison,) = rig.publish("crash", "poison")
    rig.publish("slow", *innocents[20:], payload={"seconds": 0.05})
    workers = [rig.start("--concurrency", "4") for _ in range(2)]

    def buried():
        for number, worker in enumerate(workers):
            if worker.code is not None:
                workers[number] = rig.start("--concurrency", "4")
        return rig.dead() and set(innocents) <= set(rig.keys_of("F"))

    wait_until(buried, 60)
    rig.empty()
    assert rig.reasons() == {poison.id: "poison"}
    assert rig.keys_of("S").count("poison") >= 2
    assert Counter(rig.keys_of("F")).keys() == set(innocents)


async def test_w12_a_key_is_not_forgotten_while_its_message_may_come_back(house):
    """However short the window of idempotency, a key outlasts the retries, losses and delay of its message."""
    queue = {"max_retries": 100, "retry_delay": 60.0, "exponential_backoff": False, "max_deliveries": 20}
    async with house.app(limits={"idempotency_window": 60.0}, **queue) as app:
        horizon = 1.2 * 6000 + 20 * 2.0
        for name, delay, least in (("soon", None, horizon), ("late", 200_000, 200_000 + 3600)):
            await app.publish(QUEUE, {"type": "work"}, idempotency_key=name, delay=delay)
            left = house.raw("PTTL", app.session.keyspace.once(QUEUE, name)) / 1000
            assert least - 100 < left <= least
            assert (await app.publish(QUEUE, {"type": "work"}, idempotency_key=name)).duplicate


@pytest.mark.e2e
def test_w15_the_figures_come_from_redis_while_every_worker_is_stuck(rig):
    """All workers are frozen: what waits, what is in flight and how old it is are told all the same."""
    worker = rig.worker("--concurrency", "2")
    rig.publish("gated", "a", "b", "c", "d", "e")
    rig.started("a", "b")
    rig.publish("ok", "later", delay=600)
    worker.freeze()
    command = [sys.executable, "-m", "streamq", "stats", "work", "-o", "json"]
    said = subprocess.run(command, env=rig.environment(), cwd=rig.folder, capture_output=True, check=True)
    (row,) = json.loads(said.stdout)
    assert (row["ready"], row["pending"], row["delayed"], row["accepted"], row["done"]) == (3, 2, 1, 6, 0)
    assert row["oldest_pending_age_s"] > 0
    worker.thaw()
    rig.open()
    rig.finished("a", "b", "c", "d", "e")


def _entry(number, **changes):
    """A signed entry as a stranger writes it, with what is changed afterwards; None takes a field away."""
    entry = {
        "id": f"m{number}", "queue": QUEUE, "priority": "3", "payload": '{"type": "work"}', "metadata": "{}",
    }  # fmt: skip
    before = {name: changes.pop(name) for name in ("payload", "metadata") if name in changes}
    entry |= before
    signature = sign({name.encode(): value.encode() for name, value in entry.items()}, "k1", SECRET).decode()
    entry = {**entry, "signature": signature, **changes}
    return {name: value for name, value in entry.items() if value is not None}


BAD = {
    "malformed": [{"payload": "no JSON"}, {"payload": "[1]"}, {"metadata": "{"}, {"priority": "9"}, {"id": "a b"}],
    "bad_signature": [{"signature": "v1,k1," + "A" * 43}, {"retry": "x", "id": "another"}],
    "unsigned": [{"signature": None}],
    "wrong_queue": [{"queue": "mails"}, {"priority": "1"}],
    "unknown_key": [{"signature": "v1,k9," + "A" * 43}],
    "unknown_type": [{"payload": '{"type": "nobody"}'}],
    "schema": [{"payload": '{"type": "strict", "count": "many"}'}],
    "too_large": [{"payload": '{"type": "work", "text": "' + "x" * 300_000 + '"}'}],
}


async def test_w17_what_nobody_can_read_is_neither_run_nor_dropped(house):
    """Unreadable, unsigned, forged, misplaced, unknown: each becomes a dead letter that says why, in the same bytes."""
    app, ran = house.app(signing_keys=KEYS, unknown_type_timeout=0.0, unknown_key_timeout=0.0), []

    @app.handler(QUEUE)
    async def work(ctx: Context):
        ran.append(ctx.message.id)

    @app.handler(QUEUE)
    async def strict(count: int):
        ran.append(count)

    stream = house.books.keys.stream("normal")
    async with serving(app):
        added = {}
        for reason, bad in BAD.items():
            for number, changes in enumerate(bad):
                entry = _entry(f"{reason}-{number}", **changes)
                key = house.raw("XADD", stream, "*", *(part for pair in entry.items() for part in pair))
                added[key] = (reason, entry["payload"])
        garbage = house.raw("XADD", stream, "*", b"\xff", b"\x00")
        await app.publish(QUEUE, {"type": "work"})
        await eventually(house.books.is_empty)
    letters = house.raw("XRANGE", house.books.keyspace.dead_letter, "-", "+")
    found = [dict(zip(*[iter(flat)] * 2, strict=True)) for _, flat in letters]
    reasons = {letter[b"original_entry"]: letter[b"reason"].decode() for letter in found}
    assert reasons == {**{key: reason for key, (reason, _) in added.items()}, garbage: "malformed"}
    for letter in found:
        _, payload = added.get(letter[b"original_entry"], ("", ""))
        assert payload.encode() in letter.get(b"payload", letter.get(b"raw"))
    assert len(ran) == 1


async def test_w18_a_deploy_that_lacks_a_handler_costs_no_message(house):
    """Half of the workers do not know the type: what they fetch waits, and those who know it run it."""
    old, new, ran = house.app(), house.app(), Counter()

    @old.handler(QUEUE)
    async def known(): ...

    @new.handler(QUEUE)
    async def added(ctx: Context):
        ran[ctx.message.id] += 1

    def come_due():
        for member in house.books.delayed():
            house.raw("ZADD", house.books.keys.delayed, "XX", 0, member)  # time passes
        return house.books.ledger().get("done") == 20

    async with serving(old) as lacking:
        receipts = await old.publish_many(QUEUE, [{"type": "added"}] * 20)
        await eventually(lambda: len(house.books.delayed()) == 20)
        assert ran == {}
        async with serving(new):
            await eventually(come_due)
    assert ran == Counter(receipt.id for receipt in receipts)
    assert house.books.letters() == []
    assert len(lacking.events.of(Settled)) >= 20
