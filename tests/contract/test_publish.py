"""publish: what is accepted and what is not, and that asking twice adds nothing."""

import pytest

from streamq.core.config import LEVELS
from streamq.store.outages import OutOfMemory, RedisRefused
from tests.contract.desk import FAR, ONCE, WINDOW, draft, fields
from tests.support import wait_until

LAST_ID = "18446744073709551615-18446744073709551615"


@pytest.mark.parametrize("level", LEVELS)
async def test_a_message_lies_in_the_stream_of_its_level(desk, level):
    """OK adds one entry with the bytes of the draft, and counts it as ours."""
    before = desk.state()
    assert await desk.publish(draft("a", level, metadata="{}")) == ["OK"]
    assert desk.state() == before | {
        level: [fields("a", level, metadata="{}")],
        "seen": {b"a"},
        "ledger": {"accepted": 1, f"added:{level}": 1},
    }


async def test_publishers_need_no_group(desk):
    """The stream is made by the first message; what lies there when the group comes is delivered."""
    desk.raw("FLUSHALL")
    assert await desk.publish(draft("a")) == ["OK"]
    await desk.store.ensure()
    assert [delivery.message_id for delivery in desk.fetch()] == ["a"]


@pytest.mark.parametrize("how", ["delay_ms", "due_ms"])
async def test_a_delayed_message_waits_with_its_bytes(desk, how):
    """It lies among the delayed ones, due by the clock of Redis, and in no stream."""
    before, start = desk.state(), desk.now()
    assert await desk.publish(draft("a", "low", **{how: FAR if how == "delay_ms" else start + FAR})) == ["OK"]
    assert desk.state() == before | {
        "delayed": ["a"],
        "bodies": {"a": fields("a", "low")},
        "seen": {b"a"},
        "ledger": {"accepted": 1},
    }
    assert start + FAR <= desk.due_of("a") <= desk.now() + FAR


async def test_a_time_that_has_passed_is_now(desk):
    """A message due in the past goes to its stream at once."""
    assert await desk.publish(draft("a", due_ms=1)) == ["OK"]
    assert desk.state()["normal"] == [fields("a")]


async def test_bytes_survive_the_wait(desk):
    """Whatever bytes a value has, packing and unpacking gives them back."""
    nasty = draft("a", delay_ms=FAR)
    nasty.fields += [b"payload2", bytes(range(256)), b"", b"3:abc,"]
    await desk.publish(nasty)
    packed = desk.raw("HGET", desk.keys.messages, "a")
    assert packed == b"".join(b"%d:%b," % (len(part), part) for part in nasty.fields)


# --- known already


@pytest.mark.parametrize("delay_ms", [0, FAR])
async def test_an_id_is_accepted_once(desk, delay_ms):
    """The same id again is DUP and changes nothing, be it in the same call or with other content."""
    assert await desk.publish(draft("a", delay_ms=delay_ms), draft("a", delay_ms=delay_ms)) == ["OK", "DUP"]
    before = desk.state()
    assert await desk.publish(draft("a", "high", more=1), draft("a", delay_ms=5)) == ["DUP", "DUP"]
    assert desk.state() == before


async def test_an_id_is_known_after_it_is_done(desk):
    """Within the window an id is remembered though its message is gone."""
    (delivery,) = await desk.deliver(draft("a"))
    await desk.store.ack([delivery.key])
    assert await desk.publish(draft("a")) == ["DUP"]


async def test_an_id_that_waits_is_known_beyond_the_window(desk):
    """A delayed message is recognised by its place, however long ago it was accepted."""
    await desk.publish(draft("a", delay_ms=FAR))
    desk.raw("DEL", desk.keys.seen_0, desk.keys.seen_1)
    before = desk.state()
    assert await desk.publish(draft("a")) == ["DUP"]
    assert desk.state() == before


async def test_ids_of_both_windows_are_known(desk):
    """Ids are written to this window's set, which lives to the end of the next one, and looked for in both."""
    await desk.publish(draft("a"))
    bucket, keys = desk.now() // WINDOW, (desk.keys.seen_0, desk.keys.seen_1)
    fresh, older = keys[bucket % 2], keys[(bucket + 1) % 2]
    assert desk.raw("SISMEMBER", fresh, "a") == 1
    assert desk.raw("PEXPIRETIME", fresh) == (bucket + 2) * WINDOW - 1  # a key lives through its last millisecond
    desk.raw("SADD", older, "b")
    assert await desk.publish(draft("a"), draft("b"), draft("c")) == ["DUP", "DUP", "OK"]


async def test_an_id_is_forgotten_after_its_window(desk):
    """After the end of the next window the id may be used again."""
    window = 200
    await desk.publish(draft("a"), window_ms=window)
    accepted = desk.now()
    wait_until(lambda: desk.now() // window >= accepted // window + 2)
    assert await desk.publish(draft("a"), window_ms=window) == ["OK"]


async def test_windows_end_however_busy_publishers_are(desk):
    """An id that comes in the millisecond of a change must not take the last window's ids along into the next."""
    window, accepted = 20, {}
    start = desk.now()
    while desk.now() < start + 40 * window:
        name = f"m{len(accepted)}"
        assert await desk.publish(draft(name), window_ms=window) == ["OK"]
        accepted[name.encode()] = desk.now() // window
    known = {name for key in (desk.keys.seen_0, desk.keys.seen_1) for name in desk.raw("SMEMBERS", key)}
    assert {name for name in known if accepted[name] < desk.now() // window - 20} == set()


# --- idempotency keys


async def test_an_idempotency_key_names_the_first_message(desk):
    """A later message with the key is not accepted and learns the first one's id; other keys do not matter."""
    assert await desk.publish(draft("a", once="k"), draft("b", once="k"), draft("c", once="other"), draft("d")) == [
        "OK", "IDEM a", "OK", "OK",
    ]  # fmt: skip
    before = desk.state()
    assert before["once"] == {"k": "a", "other": "c"}
    assert await desk.publish(draft("e", once="k"), draft("a", once="k")) == ["IDEM a", "DUP"]
    assert desk.state() == before


@pytest.mark.parametrize(("delay_ms", "due_in"), [(0, 0), (FAR, 0), (100 * FAR, 0), (0, 100 * FAR)])
async def test_an_idempotency_key_outlives_the_delay(desk, delay_ms, due_in):
    """It is kept for its time, but at least for the delay and an hour."""
    await desk.publish(draft("a", delay_ms=delay_ms, due_ms=due_in and desk.now() + due_in, once="k"))
    ttl = desk.raw("PTTL", desk.keyspace.once("orders", "k"))
    wanted = max(ONCE, delay_ms + 3_600_000, due_in + 3_600_000)
    assert wanted - 10_000 < ttl <= wanted


async def test_a_message_that_was_refused_leaves_no_idempotency_key(desk):
    await desk.publish(draft("a"))
    assert await desk.publish(draft("b", once="k"), max_length=1) == ["FULL"]
    assert desk.state()["once"] == {}


async def test_an_idempotency_key_of_the_wrong_type_refuses_the_whole_call(desk):
    """It is found out before anything is written."""
    key = desk.keyspace.once("orders", "k")
    desk.raw("SADD", key, "x")
    before = desk.state()
    with pytest.raises(RedisRefused):
        await desk.publish(draft("a"), draft("b", delay_ms=FAR), draft("c", once="k"))
    assert desk.state() == before


# --- no room


async def test_a_full_queue_refuses_and_goes_on(desk):
    """Streams and delayed messages count together; what would not add anything is still answered."""
    await desk.publish(draft("a", "high"), draft("b", delay_ms=FAR), draft("c", once="k"))
    desk.fetch(level="high")  # what is in flight counts too
    before = desk.state()
    words = await desk.publish(draft("d"), draft("a"), draft("e", delay_ms=FAR), draft("f", once="k"), max_length=3)
    assert words == ["FULL", "DUP", "FULL", "IDEM c"]
    assert desk.state() == before
    assert await desk.publish(draft("d"), draft("e"), max_length=4) == ["OK", "FULL"]


async def test_no_limit_is_zero(desk):
    assert await desk.publish(*(draft(f"m{n}") for n in range(500)), max_length=0) == ["OK"] * 500
    assert desk.state()["ledger"] == {"accepted": 500, "added:normal": 500}


async def test_a_stream_that_takes_no_more_refuses_only_its_own(desk):
    """An entry that cannot be added is an ERR of its own: not counted, not remembered, and the next is tried."""
    desk.raw("XADD", desk.keys.high, LAST_ID, "payload", "{}")
    before = desk.state()
    first, *rest = await desk.publish(draft("a", "high", once="k"), draft("b"), draft("c", "high", delay_ms=FAR))
    assert first.startswith("ERR ")
    assert rest == ["OK", "OK"]
    after = desk.state()
    assert after["high"] == before["high"]
    assert after["seen"] == {b"b", b"c"}
    assert after["ledger"] == {"accepted": 2, "added:normal": 1}
    assert after["once"] == {}


async def test_a_redis_without_memory_accepts_nothing(desk):
    """OOM refuses the call as a whole, before anything is written."""
    before = desk.state()
    desk.raw("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(OutOfMemory):
        await desk.publish(draft("a"), draft("b", delay_ms=FAR))
    assert desk.state() == before
