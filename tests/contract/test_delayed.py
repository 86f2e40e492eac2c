"""promote and cancel: how messages that wait come back in by the front door, or are taken back."""

import pytest

from streamq.core.outcome import Retry, Wait
from tests.contract.desk import FAR, draft, fields, flat
from tests.contract.test_settle import MANY, counted
from tests.support import pack_fields

BACK = {"retry_count": "0", "deliveries": "0"}  # what every entry carries that has waited


async def wait(desk, *names, **more):
    """Publish messages that wait, due long ago in this order."""
    await desk.publish(*(draft(name, delay_ms=FAR, **more) for name in names))
    for n, name in enumerate(names, start=1):
        desk.make_due(name, n)


async def test_what_is_due_goes_to_its_stream(desk):
    """The same bytes, with the counters that a message has which waited; what is not due stays."""
    await desk.publish(draft("a", "high", delay_ms=FAR, metadata="{}"), draft("b", delay_ms=FAR))
    desk.make_due("a")
    before = desk.state()
    done = await desk.store.promote()
    assert (done.moved, done.dead, done.clock_jumped) == (1, 0, False)
    assert done.next_due_ms == desk.due_of("b")
    assert abs(done.now_ms - desk.now()) < 10_000
    assert desk.state() == before | {
        "high": [fields("a", "high", metadata="{}") | BACK],
        "delayed": ["b"],
        "bodies": {"b": fields("b")},
        "ledger": counted(before, promoted=1, **{"added:high": 1}),
    }


async def test_counters_of_a_retried_message_come_back(desk):
    """What the outcome wrote is what the next delivery reads."""
    (delivery,) = await desk.deliver(draft("a"))
    outcome = Retry(Wait.HELD, 0, retry_count=1, deliveries=2, held_since=3, alone=1)
    await desk.store.retry("w1", [(delivery, outcome)])
    assert (await desk.store.promote()).moved == 1
    (again,) = desk.fetch()
    assert [again.counter(name) for name in (b"retry_count", b"deliveries", b"held_since", b"alone")] == [1, 2, 3, 1]
    assert again.losses == 2


async def test_nothing_is_due(desk):
    """Sent again it finds nothing; without any message there is no next one."""
    await wait(desk, "a")
    await desk.store.promote()
    before = desk.state()
    assert (await desk.store.promote())[1:] == (0, 0, None, False)
    assert desk.state() == before


async def test_a_page_at_a_time_the_oldest_first(desk):
    await wait(desk, "a", "b", "c")
    done = await desk.store.promote(limit=2)
    assert (done.moved, done.next_due_ms) == (2, 3)
    assert [entry["id"] for entry in desk.state()["normal"]] == ["a", "b"]
    assert (await desk.store.promote(limit=2)).moved == 1


async def test_a_clock_that_jumped_ahead_fires_nothing(desk):
    """Past the time that the caller allows nothing is done, and the caller learns the time."""
    await wait(desk, "a")
    before, now = desk.state(), desk.now()
    done = await desk.store.promote(max_now_ms=now - 1)
    assert done.clock_jumped
    assert done.now_ms >= now
    assert desk.state() == before
    assert (await desk.store.promote(max_now_ms=now + 60_000)).moved == 1


async def test_a_level_says_where_to(desk):
    """A foreign entry that names another level waits and goes to the level it names."""
    desk.add("high", id="x", priority=4)
    (delivery,) = desk.fetch(level="high")
    await desk.store.retry("w1", [(delivery, Retry(Wait.RETRIED, 0))])
    await desk.store.promote()
    assert [entry["id"] for entry in desk.state()["low"]] == ["x"]


@pytest.mark.parametrize("score", ["+inf", "1e300", "-inf", "-5"])
async def test_a_due_time_of_any_size(desk, score):
    """Scores that nobody of us writes are due or not; the next due time is a number of milliseconds."""
    await desk.publish(draft("a", delay_ms=FAR))
    desk.raw("ZADD", desk.keys.delayed, "XX", score, "a")
    done = await desk.store.promote()
    assert done[1:] == ((1, 0, None, False) if score.startswith("-") else (0, 0, 9 * 10**15, False))


CORRUPT = {
    "no netstring": b"junk",
    "cut off": pack_fields(flat(fields("b")))[:-3],
    "a length beyond the end": b"999:abc,",
    "a length of many digits": b"999999999:abc,",
    "a byte too many": pack_fields(flat(fields("b"))) + b"x",
    "no payload": pack_fields([b"id", b"b"]),
    "an odd number of parts": pack_fields([b"payload", b"{}", b"id"]),
    "a doubled field": pack_fields([b"payload", b"{}", b"payload", b"{}"]),
    "a bad priority": pack_fields([b"payload", b"{}", b"priority", b"x"]),
    "too many fields": pack_fields([b"payload", b"{}", *MANY]),
    "nothing": b"",
}


@pytest.mark.parametrize("packed", CORRUPT.values(), ids=CORRUPT)
async def test_bytes_that_do_not_unpack_become_a_dead_letter(desk, packed):
    """One such message must not stop every promote for ever: its neighbours go on."""
    await wait(desk, "a", "b", "c")
    desk.raw("HSET", desk.keys.messages, "b", packed)
    before = desk.state()
    done = await desk.store.promote()
    assert (done.moved, done.dead) == (2, 1)
    after = desk.state()
    assert after["delayed"] == []
    assert after["bodies"] == {}
    assert after["ledger"] == counted(before, promoted=2, dead=1, **{"added:normal": 2})
    (letter,) = after["dead"]
    assert letter.pop("error")
    assert letter == {
        "original_queue": "orders", "original_id": "b", "reason": "malformed", "retry_count": "0", "deliveries": "0",
        "raw": pack_fields([packed]).decode("latin-1"),
    }  # fmt: skip


async def test_a_due_time_without_a_body_becomes_a_dead_letter(desk):
    await wait(desk, "a", "b")
    desk.raw("HDEL", desk.keys.messages, "a")
    done = await desk.store.promote()
    assert (done.moved, done.dead) == (1, 1)
    assert desk.state()["dead"][0]["original_id"] == "a"


async def test_a_body_without_id_is_named_by_its_member(desk):
    """A message is never promoted without a name."""
    await wait(desk, "a")
    desk.raw("HSET", desk.keys.messages, "a", pack_fields([b"payload", b"{}"]))
    assert (await desk.store.promote()).moved == 1
    assert desk.state()["normal"] == [{"id": "a", "priority": "3", "payload": "{}"} | BACK]


async def test_a_message_that_waits_under_another_name_keeps_its_id(desk):
    """Its id is signed; the member only tells it from another one of the same id."""
    await wait(desk, "a~2")
    desk.raw("HSET", desk.keys.messages, "a~2", pack_fields(flat(fields("a"))))
    assert (await desk.store.promote()).moved == 1
    assert desk.state()["normal"] == [fields("a") | BACK]


# --- cancel


async def test_what_waits_can_be_taken_back(desk):
    """OK once, GONE afterwards; others stay."""
    await desk.publish(draft("a", delay_ms=FAR), draft("b", delay_ms=FAR))
    before = desk.state()
    assert await desk.store.cancel(["a", "x", "a"]) == ["OK", "GONE", "GONE"]
    after = before | {"delayed": ["b"], "bodies": {"b": fields("b")}, "ledger": counted(before, cancelled=1)}
    assert desk.state() == after
    assert await desk.store.cancel(["a"]) == ["GONE"]
    assert desk.state() == after


async def test_what_was_promoted_cannot_be_taken_back(desk):
    await wait(desk, "a")
    await desk.store.promote()
    before = desk.state()
    assert await desk.store.cancel(["a"]) == ["GONE"]
    assert desk.state() == before
