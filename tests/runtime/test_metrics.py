"""Prometheus metrics: events are counted as they happen, depths are asked for at each scrape."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from streamq.core import events
from streamq.core.outcome import Ack, DeadLetter, Reason, Release, Retry, Wait
from streamq.ext.metrics import Metrics
from streamq.store.inspect import QueueStats
from tests.runtime.rig import QUEUE

STATS = QueueStats(
    queue=QUEUE, ready=3, pending=2, delayed=1, dead=4, oldest_ready_age_s=1.5, oldest_pending_age_s=None, consumers=5,
    accepted=9, done=0,
)  # fmt: skip


@pytest.fixture
def asked():
    return []


@pytest.fixture
def metrics(asked):
    from streamq import StreamQ

    app = StreamQ()
    app.handler(QUEUE, type="work")(lambda: None)
    app.handler(QUEUE, type="video_*")(lambda: None)
    return Metrics(app.registry, lambda: asked.append(True) or [STATS], lambda: [(QUEUE, 2, 5)], lambda: 1.5, lambda: 7)


def samples(metrics):
    found = text_string_to_metric_families(metrics.text().decode())
    return {
        (sample.name, *(value for name, value in sorted(sample.labels.items()) if name != "queue")): sample.value
        for family in found
        for sample in family.samples
        if sample.labels.get("queue") == QUEUE
    }


def settled(outcome, *, kind="work", duration=0.2, applied=True):
    return events.Settled(QUEUE, "id", kind, outcome, duration, applied)


@pytest.mark.parametrize(
    ("outcome", "label"),
    [
        (Ack(), "done"),
        (Ack(dropped=True), "dropped"),
        (Retry(Wait.RETRIED, 0), "retried"),
        (Retry(Wait.HELD, 0), "held"),
        (DeadLetter(Reason.POISON), "dead_poison"),
        (Release(), "released"),
    ],
)
def test_outcomes_are_counted_by_kind(metrics, outcome, label):
    metrics(settled(outcome))
    metrics(settled(outcome))
    assert samples(metrics)["streamq_settled_total", label] == 2


def test_an_outcome_that_was_void_is_not_counted(metrics):
    metrics(settled(Ack(), applied=False))
    assert not [name for name, *_ in samples(metrics) if "settled" in name]


def test_what_ran_took_time(metrics):
    metrics(settled(Ack(), duration=0.2))
    metrics(settled(DeadLetter(Reason.EXPIRED), kind=None, duration=0.0))
    found = samples(metrics)
    assert found["streamq_handler_seconds_count", "work"] == 1
    assert found["streamq_handler_seconds_sum", "work"] == pytest.approx(0.2)
    assert found["streamq_handler_seconds_bucket", "0.1", "work"] == 0
    assert found["streamq_handler_seconds_bucket", "0.25", "work"] == 1


def test_a_pattern_is_one_label(metrics):
    """Not one for every type that somebody thinks of."""
    for kind in ("video_cut", "video_join", "nobody_knows"):
        metrics(settled(Ack(), kind=kind))
    kinds = {labels[0] for name, *labels in samples(metrics) if name == "streamq_handler_seconds_count"}
    assert kinds == {"video_*", "unknown"}


def test_the_wait_before_the_start_is_measured_where_it_is_known(metrics):
    for waited in (1500, None, -20):
        metrics(events.Started(QUEUE, "id", "work", 1, waited))
    found = samples(metrics)
    assert found["streamq_start_delay_seconds_count", "work"] == 2
    assert found["streamq_start_delay_seconds_sum", "work"] == 1.5


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (events.Fetched(QUEUE, 3), {("streamq_fetched_total",): 3}),
        (events.Reclaimed(QUEUE, 2, 1, 0), {("streamq_reclaimed_total",): 2}),
        (events.Promoted(QUEUE, 7), {("streamq_promoted_total",): 7}),
        (events.LeaseLost(QUEUE, "id"), {("streamq_lease_lost_total",): 1}),
        (events.RedisUnavailable(QUEUE, "fetch", "down", 1), {("streamq_redis_unavailable_total", "fetch"): 1}),
        (
            events.Published(QUEUE, 5, 2, 1),
            {
                ("streamq_published_total", "accepted"): 5,
                ("streamq_published_total", "duplicate"): 2,
                ("streamq_published_total", "refused"): 1,
            },
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_happens_is_counted(metrics, event, expected):
    metrics(event)
    found = samples(metrics)
    assert {name: value for name, value in found.items() if name in expected} == expected


def test_an_outage_is_counted_once(metrics):
    """Its end is the end of the same one."""
    metrics(events.RedisUnavailable(QUEUE, "fetch", "down", 1))
    metrics(events.RedisUnavailable(QUEUE, "fetch", "", 3, back=True))
    metrics(events.Noticed(QUEUE, "something"))
    assert samples(metrics)["streamq_redis_unavailable_total", "fetch"] == 1


def test_depths_are_those_of_redis_at_the_scrape(metrics, asked):
    """Registering asks nothing: that would need Redis before the worker has started."""
    assert asked == []
    found = samples(metrics)
    assert asked == [True]
    depths = {name: value for (name, *labels), value in found.items() if name.startswith("streamq_queue_")}
    assert depths == {
        "streamq_queue_ready": 3, "streamq_queue_pending": 2, "streamq_queue_delayed": 1, "streamq_queue_dead": 4,
        "streamq_queue_oldest_ready_age_seconds": 1.5, "streamq_queue_oldest_pending_age_seconds": 0,
        "streamq_queue_consumers": 5,
    }  # fmt: skip
    assert (found["streamq_busy_slots",], found["streamq_slots",]) == (2, 5)


def test_a_blocked_loop_is_counted_by_handler(metrics):
    metrics(events.LoopBlocked(QUEUE, "work", "id"))
    metrics(events.LoopBlocked(QUEUE, "reload_settings"))  # no handler: a name of the app's own
    assert samples(metrics)["streamq_loop_blocked_total", "work"] == 1
    assert samples(metrics)["streamq_loop_blocked_total", "unknown"] == 1


def test_the_lag_of_the_loop_is_asked_for(metrics):
    assert "streamq_loop_lag_seconds 1.5" in metrics.text().decode()


def test_the_tasks_of_the_loop_are_asked_for(metrics):
    assert "streamq_worker_tasks 7" in metrics.text().decode()
