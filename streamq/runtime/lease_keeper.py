"""Beat: a thread that keeps the leases, with its own connection, whatever the event loop does.

A handler that blocks the loop must not cost its neighbours their leases, and a worker must notice by itself that it
was stopped for too long. So the beat is nobody's coroutine.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence

from streamq.core.errors import RedisUnavailable
from streamq.runtime.lane import GRACE, Lane
from streamq.store.beats import Beat, BeatConnection

TELL_EVERY = 60.0  # seconds: somebody may have deleted what we said
RECONNECT = 1.0  # seconds until a failed beat is repeated, at most


class LeaseKeeper:
    """Beats for queues of one worker that lie on one server.

    Args:
        lanes: the queues.
        connection: sends the beats.
        heard: called on the event loop with what each beat learned.
        failed: called on the event loop when a beat did not get through.
        broke: called on the event loop with a bug; there are no more beats then.
        about: what this worker can do on a queue, as JSON.
    """

    def __init__(
        self, lanes: Sequence[Lane], connection: BeatConnection, *, heard: Callable[[Lane, Beat], None],
        failed: Callable[[Lane, RedisUnavailable], None], broke: Callable[[BaseException], None],
        about: Callable[[Lane], str],
    ) -> None:  # fmt: skip
        self.lanes = lanes
        self._connection = connection
        self._heard, self._failed, self._broke, self._about = heard, failed, broke, about
        self._tell_at = dict.fromkeys((lane.queue for lane in lanes), 0.0)  # when to say again what we can do
        self._next = dict.fromkeys((lane.queue for lane in lanes), 0.0)
        self._waiters: list[tuple[Lane, asyncio.Future[None]]] = []
        self._guard = threading.Lock()
        self._poke = threading.Event()
        self._stopping = False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="streamq-beat", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    async def stop(self) -> None:
        """Beat no more."""
        self._stopping = True
        self._poke.set()
        await asyncio.to_thread(self._thread.join, 2 * RECONNECT)

    def is_fresh(self, lane: Lane) -> bool:
        """Whether the last good beat still proves that what we hold is ours."""
        return time.monotonic() - lane.last_beat < lane.trust

    async def renew(self, lane: Lane) -> None:
        """Wait for a good beat of a queue that is sent from now on: afterwards ``delivery.lost`` tells the truth."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._guard:
            self._waiters.append((lane, waiter))
        self._poke.set()
        await waiter

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._poke.wait(max(0.0, min(self._next.values()) - time.monotonic()))
                self._poke.clear()
                self._beat_where_due()
        except BaseException as bug:  # noqa: BLE001 - a thread that ends without a word costs every lease of this worker
            self._on_loop(self._broke, bug)
        finally:
            self._connection.close()

    def _beat_where_due(self) -> None:
        with self._guard:
            waiters, self._waiters = self._waiters, []
        asked = {lane.queue for lane, _ in waiters}
        for lane in self.lanes:
            if lane.queue in asked or self._next[lane.queue] <= time.monotonic():
                good = self._beat(lane)
                mine = [pair for pair in waiters if pair[0] is lane]
                if good:
                    self._on_loop(_resolve, [waiter for _, waiter in mine])
                else:
                    with self._guard:
                        self._waiters += mine

    def _beat(self, lane: Lane) -> bool:
        sent_at = time.monotonic()
        held = [d for d in lane.in_flight.deliveries() if sent_at < d.deadline + GRACE]
        try:
            beat = self._connection.extend(
                lane.store.keys,
                lane.store.group,
                lane.consumer,
                lease_ms=round(lane.config.lease * 1000),
                silent_after_ms=round(lane.limits.silent_after * 1000),
                deliveries=held,
                about=self._about(lane) if self._tell_at[lane.queue] <= sent_at else "",
            )
        except RedisUnavailable as error:
            self._connection.close()
            self._tell_at[lane.queue] = 0.0  # the server that comes back may be an empty one
            self._next[lane.queue] = time.monotonic() + min(RECONNECT, lane.beat_interval)
            self._on_loop(self._failed, lane, error)
            return False
        if self._tell_at[lane.queue] <= sent_at:
            self._tell_at[lane.queue] = sent_at + TELL_EVERY
        self._next[lane.queue] = sent_at + lane.beat_interval
        lane.last_beat = sent_at
        for delivery in held:  # also of what is lost: that is told by `lost`
            delivery.proven_at = sent_at
        self._on_loop(self._heard, lane, beat)
        return True

    def _on_loop(self, call: Callable[..., None], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: there is nobody left to tell
            self._loop.call_soon_threadsafe(call, *args)


def _resolve(waiters: Sequence[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
