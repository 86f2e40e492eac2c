"""After the handler: acknowledged, retried, put off, or dead; and the limits of one run."""

import itertools
from datetime import timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamq.core import errors
from streamq.core.config import ErrorRules
from streamq.core.message import Metadata
from streamq.core.outcome import Ack, DeadLetter, Reason, Retry, Wait
from streamq.core.policy import (
    Admission,
    HandlerTimeout,
    NoChild,
    WorkerDied,
    admit,
    conclude,
    release_suspect,
    retry_limit,
    time_limit,
)
from tests.unit.builders import KEYS, NOW_MS, deliver, entry, handler, message, queue, registry

NO_RULES = ErrorRules()
LONGEST_MS = 10**12


def conclude_after(error, *, config=None, rules=NO_RULES, said=None, members=None, token=1, **counters):
    """What becomes of a message with these counters whose handler raised ``error``."""
    delivery = deliver(entry(metadata=msgspec.json.encode(members or {}), **counters), token=token)
    config = config or queue(exponential_backoff=False, retry_delay=10.0, max_retries=3)
    admission = admit(delivery, config, KEYS, registry(handler(**(said or {}))), NOW_MS)
    assert isinstance(admission, Admission)
    return conclude(error, admission, delivery, config, rules)


def raised(error):
    """The same error with a traceback."""
    try:
        raise error
    except type(error) as caught:
        return caught


# --- the words a handler may say


@pytest.mark.parametrize("counters", [{}, {"retry_count": "3", "deliveries": "4", "alone": "1", "held_since": "5"}])
def test_done(counters):
    """Returning acknowledges, whatever happened before; `Drop` does so too and is counted apart."""
    assert conclude_after(None, **counters) == Ack(dropped=False)
    assert conclude_after(errors.Drop("sold out"), **counters) == Ack(dropped=True)


def test_reject():
    """A dead letter now, with the reason and the retries that were made, although some are left."""
    found = conclude_after(raised(errors.Reject("no such user")), retry_count="1")
    assert (found.reason, found.error, found.retry_count) == (Reason.REJECTED, "Reject: no such user", 1)
    assert "in raised" in found.traceback
    assert found.fingerprint == f"Reject {__name__}.raised"


def test_a_retry_spends_an_attempt_and_forgets_the_losses():
    """A handler that came to its end neither kills workers nor waits for one that knows it."""
    found = conclude_after(
        errors.Retry(after=7.5, reason="busy"), retry_count="1", deliveries="4", token=3, alone="1", held_since="5"
    )
    assert found == Retry(
        Wait.RETRIED, 7500, 2, deliveries=0, held_since=0, alone=0, error="Retry: busy", fingerprint="Retry"
    )


def test_a_snooze_spends_nothing_and_forgets_the_losses():
    """No attempt; however often, it never becomes a dead letter."""
    found = conclude_after(errors.Snooze(after=60), retry_count="3", deliveries="4", token=3, alone="1", held_since="5")
    assert found == Retry(Wait.SNOOZED, 60_000, 3, deliveries=0, held_since=0, alone=0)


@pytest.mark.parametrize("word", [errors.Retry, errors.Snooze])
@pytest.mark.parametrize(
    ("after", "delay_ms"),
    [
        (0, 0), (0.0004, 0), (0.25, 250), (5, 5000), (timedelta(minutes=1), 60_000), (-5, 0),
        (timedelta(seconds=-1), 0), (10**9, LONGEST_MS), (10**9 + 1, LONGEST_MS), (1e300, LONGEST_MS),
        (10**400, LONGEST_MS), (float("inf"), LONGEST_MS), (float("-inf"), 0),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_waits_that_a_handler_asks_for(word, after, delay_ms):
    """Seconds or a timedelta, exactly; a time that cannot be meant is the nearest that can, and no bug of ours."""
    assert conclude_after(word(after=after)).delay_ms == delay_ms


@pytest.mark.parametrize("word", [errors.Retry, errors.Snooze])
@pytest.mark.parametrize("after", [None, float("nan"), "5", [5], object()], ids=lambda after: str(after)[:7])
def test_waits_that_are_no_time(word, after):
    """The queue's own wait is taken instead."""
    found = conclude_after(word(after=after))
    assert 8000 <= found.delay_ms <= 12_000


def test_waits_without_a_time_are_the_queues_first():
    """A snooze is no failure: its wait does not grow with them."""
    config = queue(exponential_backoff=True, retry_delay=10.0, max_retries=9)
    assert 8000 <= conclude_after(errors.Snooze(after=None), config=config, retry_count="3").delay_ms <= 12_000
    assert 64_000 <= conclude_after(errors.Retry(), config=config, retry_count="3").delay_ms <= 96_000


def test_only_our_words_choose_a_wait():
    """Another error that happens to have such an attribute waits as the queue says."""
    error = OSError("x")
    error.after = 9999
    assert 8000 <= conclude_after(error).delay_ms <= 12_000


class Careless(errors.Retry):
    """A user's own word, without the parent's arguments."""

    def __init__(self):
        self.x = 1


class CarelessSnooze(errors.Snooze):
    """The same."""

    def __init__(self):
        self.x = 1


def test_words_of_the_users_own():
    """A subclass means what its parent means, even a careless one."""

    class SoldOut(errors.Drop): ...

    class NoUser(errors.Reject): ...

    assert conclude_after(SoldOut()) == Ack(dropped=True)
    assert conclude_after(NoUser()).reason is Reason.REJECTED
    assert 8000 <= conclude_after(Careless()).delay_ms <= 12_000
    assert conclude_after(CarelessSnooze()).why is Wait.SNOOZED


# --- how often


@pytest.mark.parametrize(
    ("in_message", "in_decorator", "in_queue", "limit"),
    [
        (None, None, 3, 3), (None, None, 0, 0), (None, 5, 3, 5), (None, 0, 3, 0), (7, 5, 3, 7), (0, 5, 3, 0),
        (7, None, 3, 7), (1, 9, 9, 1),
    ],
)  # fmt: skip
def test_the_number_of_retries(in_message, in_decorator, in_queue, limit):
    """Message before decorator before queue, also where one says 0: as many retries, and one run more."""
    config = queue(max_retries=in_queue)
    one = handler(max_retries=in_decorator)
    admission = Admission(message(metadata=Metadata(max_retries=in_message)), one, {})
    assert retry_limit(admission, config) == limit
    runs, retry_count = 0, 0
    while True:
        runs += 1
        found = conclude_after(
            OSError("x"), config=config, said={"max_retries": in_decorator}, members={"max_retries": in_message},
            retry_count=str(retry_count),
        )  # fmt: skip
        if isinstance(found, DeadLetter):
            break
        assert found.retry_count == retry_count + 1
        retry_count = found.retry_count
    assert runs == limit + 1
    assert (found.reason, found.retry_count) == (Reason.MAX_RETRIES, limit)


@pytest.mark.parametrize("retry_count", ["4", "9999999999999999"])
def test_more_retries_than_allowed(retry_count):
    """A limit that was lowered, or a counter that somebody wrote: no further run."""
    found = conclude_after(OSError("x"), retry_count=retry_count)
    assert (found.reason, found.retry_count) == (Reason.MAX_RETRIES, int(retry_count))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (HandlerTimeout("pay ran into its time limit of 5 s"), Reason.TIMEOUT),
        (TimeoutError("of the handler's own"), Reason.MAX_RETRIES),
        (errors.Retry(after=1), Reason.MAX_RETRIES),
        (OSError("x"), Reason.MAX_RETRIES),
    ],
)
def test_why_the_last_attempt_failed(error, reason):
    """Only our own time limit is a `timeout`, and only when it was the last."""
    found = conclude_after(error, retry_count="3")
    assert (found.reason, found.retry_count) == (reason, 3)
    assert found.error.startswith(type(error).__name__)
    assert conclude_after(error, retry_count="2").why is Wait.RETRIED


# --- which errors


class Quota(Exception):
    """Says nothing that a rule knows."""


@pytest.mark.parametrize(
    ("error", "said", "rules", "retried"),
    [
        (Quota(), {}, NO_RULES, True),
        (ValueError("invalid"), {}, NO_RULES, False),
        (ValueError("invalid"), {"retry_on": (ValueError,)}, NO_RULES, True),
        (ValueError("invalid"), {"retry_on": (Exception,)}, NO_RULES, True),
        (ValueError("invalid"), {"retry_on": (OSError,)}, NO_RULES, False),
        (Quota(), {"never_retry": (Quota,)}, NO_RULES, False),
        (Quota(), {"never_retry": (Exception,)}, NO_RULES, False),
        (Quota(), {"never_retry": (OSError,)}, NO_RULES, True),
        (Quota(), {"retry_on": (Quota,), "never_retry": (Quota,)}, NO_RULES, False),  # no is the careful answer
        (TimeoutError(), {"never_retry": (TimeoutError,)}, NO_RULES, False),
        # the decorator speaks before the configuration
        (Quota(), {"retry_on": (Quota,)}, ErrorRules(types={"Quota": "permanent"}), True),
        (Quota(), {"never_retry": (Quota,)}, ErrorRules(types={"Quota": "transient"}), False),
        *((Quota(), {}, ErrorRules(types={"Quota": name}), retried) for name, retried in
          [("transient", True), ("retryable", True), ("permanent", False), ("non_retryable", False)]),
        # our own words and our time limit are beyond both
        (errors.Retry(), {"never_retry": (errors.Retry, Exception)}, ErrorRules(types={"Retry": "permanent"}), True),
        (HandlerTimeout(), {"never_retry": (TimeoutError,)}, ErrorRules(types={"TimeoutError": "permanent"}), True),
        (errors.Reject(), {"retry_on": (Exception,)}, ErrorRules(types={"Reject": "transient"}), False),
        # what is not an Exception is still a failure of the handler
        (SystemExit(1), {}, NO_RULES, True),
    ],
)  # fmt: skip
def test_which_errors_are_retried(error, said, rules, retried):
    """The decorator, then the configured classes; what is not retried is `rejected` at once."""
    found = conclude_after(error, said=said, rules=rules)
    if retried:
        assert (found.why, found.retry_count) == (Wait.RETRIED, 1)
    else:
        assert (found.reason, found.retry_count) == (Reason.REJECTED, 0)


def test_a_failure_says_what_happened():
    """The log of a retry names the error, without its credentials."""
    found = conclude_after(ConnectionError("redis://:hunter2@h is down"))
    assert found.error == "ConnectionError: redis://***@h is down"


@pytest.mark.parametrize(
    ("retry_count", "low", "high"), [(0, 1600, 2400), (1, 3200, 4800), (2, 6400, 9600), (5, 24_000, 36_000)]
)
def test_the_queues_waits(retry_count, low, high):
    """Exponential from its delay to its cap, by the retries that were made; with jitter."""
    config = queue(exponential_backoff=True, retry_delay=2.0, max_retry_delay=30.0, max_retries=9)
    waits = [conclude_after(OSError("x"), config=config, retry_count=str(retry_count)).delay_ms for _ in range(50)]
    assert low <= min(waits) < max(waits) <= high
    fixed = queue(exponential_backoff=False, retry_delay=2.0, max_retry_delay=1.0, max_retries=9)
    assert 1600 <= conclude_after(OSError("x"), config=fixed, retry_count=str(retry_count)).delay_ms <= 2400


# --- workers that die


@pytest.mark.parametrize(
    ("deliveries", "token", "written"), [("0", 1, 2), ("1", 1, 2), ("2", 1, 3), ("5", 1, 6), ("5", 3, 8)]
)
def test_the_first_death_alone(deliveries, token, written):
    """It comes back soon, as a suspect that every worker runs alone, and no attempt is spent."""
    found = conclude_after(WorkerDied("it died"), retry_count="1", deliveries=deliveries, token=token, held_since="5")
    assert found == Retry(
        Wait.SUSPECT, 1000, 1, deliveries=written, held_since=0, alone=1, error="WorkerDied: it died",
        fingerprint="WorkerDied",
    )  # fmt: skip


@pytest.mark.parametrize("alone", ["1", "2", "9"])
def test_the_second_death_alone_is_poison(alone):
    """It killed two processes in which nothing else ran; retries that are left do not matter."""
    found = conclude_after(WorkerDied("it died"), alone=alone, retry_count="1")
    assert (found.reason, found.error, found.retry_count) == (Reason.POISON, "WorkerDied: it died", 1)


@pytest.mark.parametrize("alone", ["0", "1"])
def test_a_death_in_a_process_that_ran_others_before_is_no_death_alone(alone):
    """What they left behind may have been the reason. It makes a suspect, and the next process is its own."""
    found = conclude_after(WorkerDied("it died", alone=False), alone=alone, retry_count="1")
    assert (found.why, found.deliveries, found.alone) == (Wait.SUSPECT, 2, int(alone))


def test_a_process_that_cannot_be_started_says_nothing_about_the_message():
    """Neither an attempt nor a loss; it is tried again soon."""
    counters = {"retry_count": "1", "deliveries": "2", "alone": "1", "held_since": "5"}
    found = conclude_after(NoChild("no memory"), **counters)
    assert found == Retry(Wait.HELD, 5000, 1, deliveries=2, held_since=5, alone=1, error="NoChild: no memory")


def test_a_suspect_that_cannot_run_now():
    """It waits with everything that is known about it: losses, failures, deaths."""
    counters = {"retry_count": "1", "deliveries": "2", "alone": "1", "held_since": "5"}
    found = release_suspect(deliver(entry(**counters), token=2), 30_000, NOW_MS)
    assert found == Retry(Wait.SUSPECT, 30_000, 1, deliveries=3, held_since=5, alone=1)
    first = release_suspect(deliver(entry(deliveries="2")), 30_000, NOW_MS)
    assert first.held_since == NOW_MS


# --- the time of one run


@pytest.mark.parametrize(
    "limits", list(itertools.product([None, 0.5, 20.0, 100.0], [None, 0.7, 30.0, 90.0], [1.0, 25.0])), ids=str
)
def test_the_smallest_time_limit_counts(limits):
    """Of the message (milliseconds), the decorator and the queue (seconds), as far as they say one."""
    in_message, in_decorator, in_queue = limits
    found = Metadata(timeout=None if in_message is None else int(in_message * 1000))
    admission = Admission(message(metadata=found), handler(timeout=in_decorator), {})
    limit = time_limit(admission, queue(ack_timeout=in_queue))
    assert limit == min(value for value in limits if value is not None)


# --- whatever a handler raises


class Broken(Exception):
    """An error that breaks when it is asked what it is."""

    def __str__(self):
        raise RuntimeError("no")


def test_an_error_that_cannot_be_printed():
    """It is a failure like any other, not the end of the worker."""
    found = conclude_after(Broken())
    assert (found.why, found.error) == (Wait.RETRIED, "Broken: (it cannot say what it is)")


ERRORS = st.one_of(
    st.builds(Exception, st.text(st.characters())),
    st.builds(errors.Retry, st.one_of(st.none(), st.floats(), st.integers(), st.text())),
    st.builds(errors.Snooze, st.one_of(st.floats(), st.integers(), st.timedeltas())),
    st.builds(errors.Reject, st.text(st.characters())),
    st.sampled_from(
        [
            KeyboardInterrupt(),
            Broken(),
            HandlerTimeout(),
            WorkerDied("it died"),
            NoChild(),
            BaseExceptionGroup("g", [Broken()]),
        ]
    ),
)


@given(ERRORS, st.integers(0, 10**16 - 1), st.integers(0, 5))
def test_any_error_gets_a_verdict(error, retry_count, alone):
    """It never raises, and no wait is negative or longer than Redis can hold."""
    found = conclude_after(error, retry_count=str(retry_count), alone=str(alone))
    assert isinstance(found, Retry | DeadLetter)
    if isinstance(found, Retry):
        assert 0 <= found.delay_ms <= LONGEST_MS
    else:
        assert found.retry_count == retry_count
