"""Prometheus metrics: what happened here, counted as it happens; how the queues stand, asked of Redis at each scrape.

Depths come from Redis and not from this worker's own counting: a gauge that only the stuck one sets would say 0.
"""

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from streamq.core import events
from streamq.core.outcome import Ack, DeadLetter, Release, Retry
from streamq.core.registry import Registry
from streamq.store.inspect import QueueStats

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)  # seconds

_GAUGES = (
    ("ready", "Messages that nobody has fetched yet."),
    ("pending", "Messages in flight."),
    ("delayed", "Messages that wait to become due."),
    ("dead", "Dead letters that lie there now."),
    ("oldest_ready_age_s", "Seconds that the oldest ready message has waited."),
    ("oldest_pending_age_s", "Seconds since the oldest message in flight was added."),
    ("consumers", "Workers that beat."),
)


class Metrics:
    """Counts events, and writes them as Prometheus text.

    Args:
        handlers: resolves types, so that a prefix pattern is one label and not a thousand.
        stats: how the queues stand; called at each scrape.
        slots: queue, busy slots, all slots of this worker.
        lag: seconds by which the event loop is late.
        tasks: how many tasks it has.
    """

    def __init__(
        self, handlers: Registry, stats: Callable[[], Sequence[QueueStats]],
        slots: Callable[[], Iterable[tuple[str, int, int]]], lag: Callable[[], float],
        tasks: Callable[[], int],
    ) -> None:  # fmt: skip
        self._handlers, self._stats, self._slots, self._lag, self._tasks = handlers, stats, slots, lag, tasks
        self._registry = CollectorRegistry()
        self._published = self._counter("published", "Messages offered by this process.", "outcome")
        self._fetched = self._counter("fetched", "Entries handed to this worker.")
        self._settled = self._counter("settled", "Outcomes that Redis has.", "outcome")
        self._reclaimed = self._counter("reclaimed", "Entries taken over from workers that vanished.")
        self._promoted = self._counter("promoted", "Delayed messages that became due.")
        self._lost = self._counter("lease_lost", "Messages that another worker took over while they ran here.")
        self._vanished = self._counter("vanished", "Messages in flight whose entries somebody deleted.")
        self._blocked = self._counter("loop_blocked", "Times that the event loop did not turn for seconds.", "by")
        self._outages = self._counter("redis_unavailable", "Times that a role could not reach Redis.", "role")
        self._duration = self._histogram("handler_seconds", "Seconds in handlers.")
        self._waited = self._histogram(
            "start_delay_seconds", "Seconds from a message's creation to its handler's start."
        )
        self._registry.register(self)

    def __call__(self, event: events.Event) -> None:
        """Count one event."""
        queue = event.queue
        match event:
            case events.Settled(applied=True):
                self._count_settled(event)
            case events.Started(waited_ms=int(waited)):
                self._waited.labels(queue, self._label(queue, event.type)).observe(max(0, waited) / 1000)
            case events.Fetched():
                self._fetched.labels(queue).inc(event.count)
            case events.Published():
                self._published.labels(queue, "accepted").inc(event.accepted)
                self._published.labels(queue, "duplicate").inc(event.duplicates)
                self._published.labels(queue, "refused").inc(event.refused)
            case events.Reclaimed():
                self._reclaimed.labels(queue).inc(event.taken)
            case events.Promoted():
                self._promoted.labels(queue).inc(event.count)
            case _:
                self._count_trouble(event)

    def text(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """The gauges, for the Prometheus client."""
        rows = self._stats()
        for name, text in _GAUGES:
            gauge = GaugeMetricFamily(f"streamq_queue_{name.replace('_s', '_seconds')}", text, labels=["queue"])
            for row in rows:
                gauge.add_metric([row.queue], getattr(row, name) or 0)
            yield gauge
        busy = GaugeMetricFamily("streamq_busy_slots", "Slots of this worker that are taken.", labels=["queue"])
        slots = GaugeMetricFamily("streamq_slots", "Slots of this worker.", labels=["queue"])
        for queue, taken, every in self._slots():
            busy.add_metric([queue], taken)
            slots.add_metric([queue], every)
        yield busy
        yield slots
        yield GaugeMetricFamily("streamq_loop_lag_seconds", "Seconds by which the event loop is late.", self._lag())
        yield GaugeMetricFamily("streamq_worker_tasks", "Tasks of this worker's event loop.", self._tasks())

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not ask Redis."""
        return ()

    def _count_trouble(self, event: events.Event) -> None:
        queue = event.queue
        match event:
            case events.LeaseLost():
                self._lost.labels(queue).inc()
            case events.Vanished():
                self._vanished.labels(queue).inc(event.count)
            case events.LoopBlocked():
                self._blocked.labels(queue, self._label(queue, event.by) if event.message_id else "unknown").inc()
            case events.RedisUnavailable(back=False):
                self._outages.labels(queue, event.role).inc()
            case _:
                pass

    def _count_settled(self, event: events.Settled) -> None:
        self._settled.labels(event.queue, _outcome(event)).inc()
        if event.type is not None and event.duration:
            self._duration.labels(event.queue, self._label(event.queue, event.type)).observe(event.duration)

    def _label(self, queue: str, message_type: str) -> str:
        handler = self._handlers.resolve(queue, message_type)
        return handler.type if handler is not None else "unknown"

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"streamq_{name}", text, ["queue", *labels], registry=self._registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"streamq_{name}", text, ["queue", "type"], registry=self._registry, buckets=BUCKETS)


def _outcome(event: events.Settled) -> str:
    match event.outcome:
        case Ack(dropped=dropped):
            return "dropped" if dropped else "done"
        case Retry(why=why):
            return str(why)
        case DeadLetter(reason=reason):
            return f"dead_{reason}"
        case Release():
            return "released"
