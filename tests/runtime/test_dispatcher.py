"""A delivery becomes an outcome: verified, decoded, run between its middleware, and judged once."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from streamq import Context, Drop, Reject, Retry, Snooze
from streamq.core import policy
from streamq.core.config import ErrorRules
from streamq.core.context import current_message
from streamq.core.events import Settled, Started
from streamq.core.message import Delivery
from streamq.core.outcome import Ack
from streamq.core.signing import KeyRing
from tests.runtime.rig import QUEUE, US, turns


def handler(rig, function=None, **options):
    """Register a handler of type `work`."""
    options.setdefault("type", "work")
    return rig.app.handler(QUEUE, **options)(function)


def raising(error):
    async def work():
        raise error

    return work


# --- outcomes


async def test_a_handler_that_returns_is_acknowledged(rig):
    async def work():
        return "ignored"

    handler(rig, work)
    await rig.run(rig.dispatcher(), await rig.deliver_one("a"))
    assert rig.is_empty()
    assert rig.ledger() == {"accepted": 1, "done": 1}
    (settled,) = rig.events.of(Settled)
    assert (settled.message_id, settled.type, settled.outcome, settled.applied) == ("a", "work", Ack(), True)
    assert settled.duration > 0


async def test_drop_is_acknowledged_and_counted(rig):
    handler(rig, raising(Drop("not needed")))
    await rig.run(rig.dispatcher(), await rig.deliver_one("a"))
    assert rig.is_empty()
    assert rig.ledger() == {"accepted": 1, "dropped": 1}


async def test_retry_waits_as_long_as_it_says(rig):
    handler(rig, raising(Retry(after=5, reason="busy")))
    await rig.run(rig.dispatcher(), await rig.deliver_one("a", retry_count=1))
    assert 4000 < rig.delayed()["a"] <= 5000
    assert rig.waiting("a")["retry_count"] == "2"
    assert rig.ledger()["retried"] == 1


async def test_snooze_costs_no_attempt(rig):
    handler(rig, raising(Snooze(after=7)))
    await rig.run(rig.dispatcher(), await rig.deliver_one("a", retry_count=3))
    assert 6000 < rig.delayed()["a"] <= 7000
    assert rig.waiting("a")["retry_count"] == "3"
    assert rig.ledger()["snoozed"] == 1


async def test_reject_is_a_dead_letter_now(rig):
    handler(rig, raising(Reject("never")))
    await rig.run(rig.dispatcher(), await rig.deliver_one("a"))
    (letter,) = rig.letters()
    assert (letter["reason"], letter["error"], letter["retry_count"]) == ("rejected", "Reject: never", "0")
    assert "raise error" in letter["traceback"]
    assert letter["fingerprint"].startswith("Reject ")
    assert rig.is_empty()


async def test_any_other_error_is_tried_again(rig):
    handler(rig, raising(RuntimeError("broken")))
    await rig.run(rig.dispatcher(), await rig.deliver_one("a"))
    assert 0 < rig.delayed()["a"] <= 1200
    assert rig.waiting("a")["retry_count"] == "1"
    assert (rig.waiting("a")["deliveries"], rig.letters()) == ("0", [])


async def test_the_last_attempt_makes_a_dead_letter(rig):
    handler(rig, raising(RuntimeError("broken")))
    await rig.run(rig.dispatcher(), await rig.deliver_one("a", retry_count=3))
    (letter,) = rig.letters()
    assert (letter["reason"], letter["retry_count"]) == ("max_retries", "3")


@pytest.mark.parametrize(
    ("options", "rules", "reasons"),
    [
        ({}, None, ["rejected"]),
        ({"retry_on": (ValueError,)}, None, []),
        ({}, ErrorRules(types={"ValueError": "retryable"}), []),
        ({"never_retry": (ValueError,)}, ErrorRules(types={"ValueError": "retryable"}), ["rejected"]),
    ],
)
async def test_the_decorator_then_the_configuration_say_what_is_worth_another_try(rig, options, rules, reasons):
    handler(rig, raising(ValueError("invalid")), **options)
    await rig.run(rig.dispatcher(rules=rules), await rig.deliver_one("a"))
    assert [letter["reason"] for letter in rig.letters()] == reasons


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError()], ids=["SystemExit", "CancelledError"])
@pytest.mark.parametrize("executor", ["async", "thread"])
async def test_a_handler_that_raises_what_ends_programs_has_failed(rig, error, executor):
    """It ends neither the worker nor its own task without an outcome."""

    def work():
        raise error

    handler(rig, raising(error) if executor == "async" else work)
    await rig.run(rig.dispatcher(), await rig.deliver_one("a"))
    assert rig.waiting("a")["retry_count"] == "1"
    assert rig.bugs == []


async def test_a_handler_whose_own_child_was_cancelled_has_failed(rig):
    """A CancelledError that comes out of what it awaited is not ours."""

    async def work():
        child = asyncio.ensure_future(asyncio.Event().wait())
        child.cancel()
        await child

    handler(rig, work)
    await rig.run(rig.dispatcher(), await rig.deliver_one("a"))
    assert rig.waiting("a")["retry_count"] == "1"


async def test_a_time_limit_of_its_own_does_not_confuse_a_handler(rig):
    async def work():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await asyncio.Event().wait()

    handler(rig, work)
    await rig.run(rig.dispatcher(), await rig.deliver_one("a"))
    assert rig.ledger()["done"] == 1


async def test_a_keyboard_interrupt_ends_the_worker(rig):
    """It is for the process, not for the message, which is left for somebody else."""
    handler(rig, raising(KeyboardInterrupt()))
    rig.dispatcher().start(await rig.deliver_one("a"))
    await turns()
    assert [type(bug) for bug in rig.bugs] == [KeyboardInterrupt]
    assert rig.pending() == {"a": (US, 1)}


async def test_a_bug_of_ours_is_told_and_loses_nothing(rig, monkeypatch):
    monkeypatch.setattr(policy, "admit", lambda *_: 1 / 0)
    rig.dispatcher().start(await rig.deliver_one("a"))
    await turns()
    assert [type(bug) for bug in rig.bugs] == [ZeroDivisionError]
    assert rig.pending() == {"a": (US, 1)}
    assert len(rig.lane.in_flight) == 0  # nobody waits for it: whoever takes it over counts the loss


# --- before the handler


async def refuse(rig, delivery, **options):
    """Run a delivery whose handler must not be called."""

    ran = []

    async def work():
        ran.append(True)

    handler(rig, work)
    await rig.run(rig.dispatcher(**options), delivery)
    assert (ran, rig.bugs) == ([], [])


async def test_a_payload_that_does_not_fit_is_a_dead_letter(rig):
    async def work(number: int):
        ran.append(True)

    ran = []
    handler(rig, work)
    await rig.run(rig.dispatcher(), await rig.deliver_one("a", payload='{"type":"work","number":"one"}'))
    (letter,) = rig.letters()
    assert (letter["reason"], ran) == ("schema", [])
    assert "$.number" in letter["error"]


async def test_a_payload_that_is_no_json_is_a_dead_letter(rig):
    await refuse(rig, await rig.deliver_one("a", payload="{"))
    assert [letter["reason"] for letter in rig.letters()] == ["malformed"]


async def test_a_type_that_nobody_here_knows_is_held(rig):
    await refuse(rig, await rig.deliver_one("a", kind="other"))
    assert 4000 < rig.delayed()["a"] <= 5000
    assert abs(int(rig.waiting("a")["held_since"]) - rig.now_ms()) < 5000
    assert rig.ledger()["held"] == 1


async def test_a_type_that_nobody_came_to_know_is_dead(rig):
    await refuse(rig, await rig.deliver_one("a", kind="other", held_since=rig.now_ms() - 3_700_000))
    assert [letter["reason"] for letter in rig.letters()] == ["unknown_type"]


async def test_an_unsigned_message_is_refused_where_signing_is_required(make_rig):
    rig = await make_rig()
    rig.lane.config = msgspec.structs.replace(rig.lane.config, signing="required")
    await refuse(rig, await rig.deliver_one("a"), keys=KeyRing.parse("k1:active:" + "QUFB" * 12))
    assert [letter["reason"] for letter in rig.letters()] == ["unsigned"]


def metadata(**members):
    return json.dumps({name: value.isoformat() for name, value in members.items()})


async def test_expiry_is_judged_when_a_handler_would_start_by_the_clock_of_redis(rig):
    """This machine's clock may be wrong."""
    soon_over = metadata(expires_at=datetime.now(UTC) + timedelta(hours=1))
    deliveries = await rig.deliver("a", metadata=soon_over)
    rig.lane.clock.heard(rig.now_ms() + 7_200_000)
    await refuse(rig, *deliveries)
    assert [letter["reason"] for letter in rig.letters()] == ["expired"]


async def test_what_others_asked_to_delay_is_moved_to_the_delayed(rig):
    await refuse(rig, await rig.deliver_one("a", metadata=metadata(delay_until=datetime.now(UTC) + timedelta(hours=1))))
    assert 3_500_000 < rig.delayed()["a"] <= 3_600_000
    assert "held_since" not in rig.waiting("a")
    assert rig.waiting("a")["deliveries"] == "0"


async def test_what_was_delayed_once_runs(rig):
    """However the clocks differ: it carries the mark that it has waited."""
    ran = []

    async def work():
        ran.append(True)

    handler(rig, work)
    late = metadata(delay_until=datetime.now(UTC) + timedelta(hours=1))
    await rig.run(rig.dispatcher(), await rig.deliver_one("a", metadata=late, deliveries=0))
    assert ran == [True]


async def test_a_prefix_pattern_handles_what_begins_so(rig):
    seen = []

    async def videos(type: str, title: str):
        seen.append((type, title))

    async def cut(title: str):
        seen.append(("exactly", title))

    handler(rig, videos, type="video_*")
    handler(rig, cut, type="video_cut")
    dispatcher = rig.dispatcher()
    await rig.run(dispatcher, await rig.deliver_one("a", payload='{"type":"video_join","title":"one"}'))
    await rig.run(dispatcher, await rig.deliver_one("b", payload='{"type":"video_cut","title":"two"}'))
    assert seen == [("video_join", "one"), ("exactly", "two")]


# --- around the handler


async def test_a_handler_gets_its_context(rig):
    seen = []

    async def publish(queue, payload, **options):
        seen.append((queue, payload, options))

    async def work(number: int, ctx: Context):
        seen.append((number, ctx.message.id, ctx.attempt, ctx.state, ctx.log, ctx.deadline))
        await ctx.publish("mail", {"type": "next"}, priority="high")

    handler(rig, work, timeout=60)
    dispatcher = rig.dispatcher(state={"db": 1}, publish=publish)
    before = time.monotonic()
    message = await rig.deliver_one(
        "a", payload='{"type":"work","number":1}', metadata='{"correlation_id":"case"}', retry_count=2
    )
    await rig.run(dispatcher, message)
    *facts, deadline = seen[0]
    assert facts == [1, "a", 3, {"db": 1}, "log of a"]
    assert before + 60 <= deadline <= time.monotonic() + 60
    assert seen[1] == ("mail", {"type": "next"}, {"priority": "high", "correlation_id": "case"})


async def test_the_context_is_no_field_of_the_payload(rig):
    async def work(ctx: Context):
        assert isinstance(ctx, Context)

    handler(rig, work)
    await rig.run(rig.dispatcher(), await rig.deliver_one("a", payload='{"type":"work","ctx":"mine"}'))
    assert rig.ledger()["done"] == 1


@pytest.mark.parametrize("executor", ["async", "thread"])
async def test_middleware_is_an_onion_and_the_first_is_outermost(rig, executor):
    order = []

    @rig.app.middleware
    async def outer(ctx, call_next):
        order.append(("outer", ctx.message.id))
        result = await call_next()
        order.append(("outer again", result))

    @rig.app.middleware
    async def inner(_, call_next):
        order.append("inner")
        return f"{await call_next()}!"

    async def work():
        order.append("handler")
        return "result"

    def work_in_thread():
        order.append("handler")
        return "result"

    handler(rig, work if executor == "async" else work_in_thread)
    await rig.run(rig.dispatcher(), await rig.deliver_one("a"))
    assert order == [("outer", "a"), "inner", "handler", ("outer again", "result!")]
    assert rig.ledger()["done"] == 1


async def test_middleware_may_answer_for_the_handler(rig):
    @rig.app.middleware
    async def refuse_all(ctx, call_next):
        raise Drop

    await refuse(rig, await rig.deliver_one("a"))
    assert rig.ledger()["dropped"] == 1


async def test_middleware_may_mend_a_failure(rig):
    @rig.app.middleware
    async def mend(ctx, call_next):
        with pytest.raises(RuntimeError):
            await call_next()

    handler(rig, raising(RuntimeError("broken")))
    await rig.run(rig.dispatcher(), await rig.deliver_one("a"))
    assert rig.ledger()["done"] == 1


@pytest.mark.parametrize("executor", ["async", "thread"])
async def test_log_lines_of_a_handler_know_its_message(rig, executor):
    seen = []

    async def work():
        seen.append(current_message.get().id)

    def work_in_thread():
        seen.append(current_message.get().id)

    handler(rig, work if executor == "async" else work_in_thread)
    await rig.run(rig.dispatcher(), *await rig.deliver("a", "b"))
    assert sorted(seen) == ["a", "b"]
    assert current_message.get() is None


async def test_the_start_is_told(rig):
    async def work():
        pass

    handler(rig, work)
    created = datetime.now(UTC) - timedelta(seconds=2)
    await rig.run(rig.dispatcher(), await rig.deliver_one("a", metadata=metadata(created_at=created), retry_count=1))
    await rig.run(rig.dispatcher(), await rig.deliver_one("b"))
    first, second = rig.events.of(Started)
    assert (first.message_id, first.type, first.attempt) == ("a", "work", 2)
    assert 1500 < first.waited_ms < 10_000
    assert second.waited_ms is None


async def test_what_nobody_watches_is_not_told(rig):
    async def work():
        pass

    handler(rig, work)
    rig.observers.routine = ()
    await rig.run(rig.dispatcher(), await rig.deliver_one("a"))
    assert rig.events.all == []


# --- once


async def test_what_comes_back_while_it_runs_is_not_run_twice(rig):
    """A reclaim of our own entry: the handler goes on, and settles under the new token."""
    ran, go = [], asyncio.Event()

    async def work():
        ran.append(True)
        await go.wait()
        raise RuntimeError("broken")

    handler(rig, work)
    dispatcher = rig.dispatcher()
    delivery = await rig.deliver_one("a")
    dispatcher.start(delivery)
    await turns()
    rig.take_away(delivery, consumer=US)
    dispatcher.start(Delivery(QUEUE, "normal", delivery.entry_id, delivery.fields, 2, 1))
    go.set()
    await rig.emptied()
    assert ran == [True]
    assert rig.waiting("a")["retry_count"] == "1"


async def test_as_many_run_at_once_as_are_started(rig):
    running = most = 0
    go = asyncio.Event()

    async def work():
        nonlocal running, most
        running += 1
        most = max(most, running)
        await go.wait()
        running -= 1

    handler(rig, work)
    dispatcher = rig.dispatcher()
    for delivery in await rig.deliver(number=5):
        dispatcher.start(delivery)
    await turns()
    assert (running, rig.lane.in_flight.free) == (5, 0)
    go.set()
    await rig.emptied()
    assert most == 5


async def test_outcomes_of_one_turn_are_one_call(rig):
    go = asyncio.Event()

    async def work():
        await go.wait()

    handler(rig, work)
    dispatcher = rig.dispatcher()
    for delivery in await rig.deliver(number=5):
        dispatcher.start(delivery)
    await turns()
    rig.wire.sent.clear()
    go.set()
    await rig.emptied()
    assert rig.wire.sent == ["ack"]


async def test_what_never_got_a_slot_goes_back_to_the_tail_of_its_stream(rig):
    (delivery,) = await rig.deliver("a")
    await rig.add("b")
    dispatcher = rig.dispatcher()
    dispatcher.release(delivery)
    await rig.events.until(Settled)
    assert rig.ready() == ["b", "a"]
    assert rig.entries()[1] == {"id": "a", "queue": QUEUE, "priority": "3", "payload": '{"type":"work"}'}


# --- the lease before the start


async def test_a_lease_that_is_not_proven_is_proven_before_the_handler_starts(rig):
    """A worker that was stopped and wakes must not start what is long done."""
    order = []

    async def renewed():
        order.append("renewed")

    async def work():
        order.append("ran")

    handler(rig, work)
    rig.fresh, rig.when_renewed = False, renewed
    await rig.run(rig.dispatcher(), await rig.deliver_one("a"))
    assert order == ["renewed", "ran"]
    rig.fresh = True
    await rig.run(rig.dispatcher(), await rig.deliver_one("b"))
    assert order == ["renewed", "ran", "ran"]


async def test_a_delivery_that_lay_about_for_too_long_is_proven_again(rig):
    """The beat may be fresh, and the reply to the read have waited in a busy process."""

    async def work():
        pass

    handler(rig, work)
    delivery = await rig.deliver_one("a")
    delivery.proven_at = time.monotonic() - 7
    await rig.run(rig.dispatcher(), delivery)
    assert len(rig.renewals) == 1


async def test_what_turns_out_to_be_lost_does_not_start(rig):
    delivery = await rig.deliver_one("a")
    rig.take_away(delivery)

    async def lose():
        delivery.lost = True

    rig.fresh, rig.when_renewed = False, lose
    await refuse(rig, delivery)
    assert rig.pending() == {"a": ("other", 2)}
