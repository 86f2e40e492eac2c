"""A worker: its roles put together, and its life from start to end. Read ``run`` from top to bottom."""

import asyncio
import contextlib
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio

from streamq.core.config import LEVELS, QueueConfig
from streamq.core.errors import RedisUnavailable
from streamq.core.events import LoopBlocked
from streamq.core.events import RedisUnavailable as Outage
from streamq.runtime.about import about
from streamq.runtime.burst import Burst
from streamq.runtime.dispatcher import Dispatcher
from streamq.runtime.drain import Drain
from streamq.runtime.executors import Executors
from streamq.runtime.fetcher import Fetcher
from streamq.runtime.health import Health
from streamq.runtime.in_flight import InFlight
from streamq.runtime.isolation import Isolation
from streamq.runtime.janitor import Janitor
from streamq.runtime.lane import Lane
from streamq.runtime.lease_keeper import LeaseKeeper
from streamq.runtime.lifecycle import Lifecycle, State
from streamq.runtime.loop_watch import LoopWatch
from streamq.runtime.mover import Mover
from streamq.runtime.plan import Plan
from streamq.runtime.promoter import Promoter
from streamq.runtime.reclaimer import Reclaimer
from streamq.runtime.redis_clock import RedisClock
from streamq.runtime.run import Surroundings
from streamq.runtime.supervisor import Supervisor
from streamq.store.beats import Beat, BeatConnection
from streamq.store.reader import QueueReader
from streamq.store.streams import QueueStore

LEAVE_PATIENCE = 2.0  # seconds that Redis gets to forget a worker that ends
WAKE_EVERY = 0.05  # seconds, while a reader is to end
START_PATIENCE = 10.0  # seconds for which a starting worker waits for Redis


class Worker:
    """Serves queues until it is told to stop.

    Args:
        plan: what to do.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        # Never a name that another process could have: whoever reads under the same name runs the same messages.
        self.consumer = f"{plan.name or socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self.lifecycle = Lifecycle()
        said = plan.drain_timeout
        self._drain_timeout = plan.limits.drain_timeout if said is None else said
        self._isolation = Isolation()
        started_ms = round(plan.clock.time() * 1000)
        self.executors = Executors(sum(config.max_consumers for config in plan.queues))
        self.lanes = [self._lane(config) for config in sorted(plan.queues, key=lambda c: LEVELS.index(c.priority))]
        self.health = Health(self.lanes, self.lifecycle)
        self._reclaimers: dict[str, Reclaimer] = {}
        self._dispatchers: dict[str, Dispatcher] = {}
        self._beat_failed: set[str] = set()
        # In a Cluster a thread for each queue: a node that hangs must not delay the beats to another.
        groups = [[lane] for lane in self.lanes] if plan.keyspace.clustered else [self.lanes]
        self._keepers = [
            LeaseKeeper(
                lanes,
                BeatConnection(plan.connections),
                heard=self._heard,
                failed=self._missed,
                broke=self.lifecycle.fail,
                about=lambda lane: about(plan, lane, started_ms),
            )
            for lanes in groups
        ]

    def stop(self) -> None:
        """Take no more, finish what runs, end. The second call does not wait for what runs."""
        if self.lifecycle.is_quiet:
            self.lifecycle.hurry()
        else:
            self.lifecycle.quiet()

    async def run(self) -> int:
        """Serve until stopped.

        Returns:
            How many handlers were cut short and handed back; 0 after a full drain.

        Raises:
            RedisUnavailable: Redis was not reachable for the first 10 s.
            ConfigError: a stream belongs to another group, or a key is not ours.
        """
        if not await self._prepare():
            return 0
        await self._plan.precautions()
        lifespan = self._plan.lifespan or contextlib.nullcontext
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.executors.aclose)
            stack.push_async_callback(self._leave)
            state = await stack.enter_async_context(lifespan())
            await stack.enter_async_context(self._beating())
            self._dispatchers = {lane.queue: self._dispatcher(lane, state) for lane in self.lanes}
            stack.enter_context(LoopWatch(self._blocked))
            drain = Drain(list(self._dispatchers.values()), self.lifecycle)
            # Senders stop before receivers: the settlers outlive whatever produces outcomes.
            async with anyio.create_task_group() as settlers:
                for dispatcher in self._dispatchers.values():
                    settlers.start_soon(self._guard, dispatcher.settler.run)
                try:
                    await self._serve()
                    cancelled = await drain.run(self._drain_timeout)
                finally:
                    await drain.abort()
                settlers.cancel_scope.cancel()
        self.lifecycle.state = State.STOPPED
        if self.lifecycle.failure is not None:
            raise self.lifecycle.failure
        return cancelled

    async def _prepare(self) -> bool:
        """Groups and names, or a clear end: the first 10 s are the time to notice a wrong address.

        Returns:
            False when the worker was told to stop before that was done.
        """
        until = time.monotonic() + START_PATIENCE
        for lane in self.lanes:
            while True:
                try:
                    await lane.store.register()
                    await lane.store.ensure()
                    break
                except RedisUnavailable as error:
                    if await self.lifecycle.pause(0.5):
                        return False
                    if time.monotonic() > until:
                        raise RedisUnavailable(
                            f"Redis at {self._plan.connections.url} was not reachable: {error}"
                        ) from error
        return True

    @contextlib.asynccontextmanager
    async def _beating(self) -> AsyncIterator[None]:
        for keeper in self._keepers:
            keeper.start()
        try:
            # Redis may be away again: whoever is told to stop does not wait for it.
            for keeper in self._keepers:
                for lane in keeper.lanes:
                    await self.lifecycle.unless_quiet(keeper.renew(lane))
            yield
        finally:
            await asyncio.gather(*(keeper.stop() for keeper in self._keepers))

    async def _serve(self) -> None:
        """Run the roles until it is time to be quiet, then wait for each to end by itself. None is cancelled."""
        burst = Burst(self.lanes, self.lifecycle)
        async with anyio.create_task_group() as roles:
            for lane in self.lanes:
                dispatcher = self._dispatchers[lane.queue]
                connections, keys, group = self._plan.connections, lane.store.keys, lane.store.group
                reader = QueueReader(connections, lane.queue, keys, group, self.consumer)
                fetcher = Fetcher(
                    lane, reader, start=dispatcher.start, release=dispatcher.release, burst=self._plan.burst
                )
                reclaimer = self._reclaimers[lane.queue] = Reclaimer(lane, start=dispatcher.start)
                if self._plan.burst:
                    roles.start_soon(self._fetch, lane, reader, burst.keep, lane, fetcher)
                else:
                    roles.start_soon(self._fetch, lane, reader, lane.supervisor.keep, "fetch", fetcher.run)
                roles.start_soon(self._guard, lane.supervisor.keep, "reclaim", reclaimer.run)
                roles.start_soon(self._guard, lane.supervisor.keep, "promote", Promoter(lane).run)
                roles.start_soon(self._guard, lane.supervisor.keep, "tidy up", Janitor(lane).run)
                if self._plan.keyspace.clustered:
                    mover = Mover(lane, self._plan.connections, self._plan.keyspace)
                    roles.start_soon(self._guard, lane.supervisor.keep, "move dead letters", mover.run)
            roles.start_soon(self.health.run)
            self.lifecycle.started()

    async def _guard(self, role: Callable[..., Awaitable[None]], *args: Any) -> None:
        """A bug ends the worker, in order: what runs is cut short and handed back, then ``run`` raises it."""
        try:
            await role(*args)
        except Exception as bug:  # noqa: BLE001 - raised by `run`
            self.lifecycle.fail(bug)

    async def _fetch(self, lane: Lane, reader: QueueReader, *role: Any) -> None:
        async with contextlib.aclosing(reader), anyio.create_task_group() as group:
            group.start_soon(self._wake_when_quiet, lane, reader)
            await self._guard(*role)
            group.cancel_scope.cancel()

    async def _wake_when_quiet(self, lane: Lane, reader: QueueReader) -> None:
        await self.lifecycle.until_quiet()
        while True:  # a read that only just begins is not there yet to be woken
            lane.in_flight.poke()
            await reader.wake()
            await asyncio.sleep(WAKE_EVERY)

    async def _leave(self) -> None:
        """Remove our name where nothing of it is pending."""

        async def forget(lane: Lane) -> None:
            with contextlib.suppress(RedisUnavailable):
                await lane.store.forget(self.consumer, dead_after_ms=0)

        # A Redis that hangs must not outlast the patience of whoever told us to stop: the janitors do it later.
        with anyio.move_on_after(LEAVE_PATIENCE):
            async with anyio.create_task_group() as group:
                for lane in self.lanes:
                    group.start_soon(forget, lane)

    def _heard(self, lane: Lane, beat: Beat) -> None:
        lane.clock.heard(beat.now_ms)
        lane.silent = beat.silent
        if lane.queue in self._beat_failed:
            self._beat_failed.discard(lane.queue)
            lane.observers.notify(Outage(lane.queue, "beat", "", 1, back=True))
        dispatcher = self._dispatchers.get(lane.queue)
        for delivery, token in beat.lost:
            if dispatcher is not None:
                dispatcher.lease_lost(delivery, token)
        reclaimer = self._reclaimers.get(lane.queue)
        if reclaimer is not None:
            reclaimer.hint(beat.silent)

    def _missed(self, lane: Lane, error: RedisUnavailable) -> None:
        if lane.queue not in self._beat_failed:
            self._beat_failed.add(lane.queue)
            lane.observers.notify(Outage(lane.queue, "beat", str(error), 1))

    def _blocked(self, task: asyncio.Task[Any] | None) -> None:
        for lane in self.lanes:
            message = self._dispatchers[lane.queue].message_of(task)
            if message is not None:
                lane.observers.notify(LoopBlocked(lane.queue, message.type, message.id))
                return
        name = getattr(task.get_coro(), "__qualname__", "") if task is not None else "a callback"
        self._plan.observers.notify(LoopBlocked(self.lanes[0].queue, name))

    def _lane(self, config: QueueConfig) -> Lane:
        plan = self._plan
        store = QueueStore(plan.connections, plan.keyspace, config.name, config.consumer_group)

        async def ensure() -> None:
            await plan.revive()
            await store.register()
            await store.ensure()

        return Lane(
            config=config,
            limits=plan.limits,
            consumer=self.consumer,
            store=store,
            in_flight=InFlight(config.max_consumers),
            clock=RedisClock(plan.clock),
            lifecycle=self.lifecycle,
            observers=plan.observers,
            supervisor=Supervisor(config.name, self.lifecycle, plan.observers, ensure),
        )

    def _dispatcher(self, lane: Lane, state: Any) -> Dispatcher:
        around = Surroundings.of(self._plan, state, self._isolation, self.executors)
        keeper = next(keeper for keeper in self._keepers if lane in keeper.lanes)
        return Dispatcher(lane, around, is_fresh=keeper.is_fresh, renew=keeper.renew, failed=self.lifecycle.fail)
