"""A worker: its roles put together, and its life from start to end. Read ``run`` from top to bottom."""

import asyncio
import contextlib
import json
import os
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio

from streamq.core.config import LEVELS, QueueConfig
from streamq.core.errors import RedisUnavailable
from streamq.core.events import RedisUnavailable as Outage
from streamq.runtime.burst import Burst
from streamq.runtime.dispatcher import Dispatcher
from streamq.runtime.executors import Executors
from streamq.runtime.fetcher import Fetcher
from streamq.runtime.health import Health
from streamq.runtime.in_flight import InFlight
from streamq.runtime.isolation import Isolation
from streamq.runtime.janitor import Janitor
from streamq.runtime.lane import Lane
from streamq.runtime.lease_keeper import LeaseKeeper
from streamq.runtime.lifecycle import Lifecycle, State
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

START_PATIENCE = 10.0  # seconds for which a starting worker waits for Redis
CANCEL_PATIENCE = 2.5  # seconds that handlers get to end after they were cut short, and Redis to hear of them


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
        self._isolation = Isolation()
        self.executors = Executors(sum(config.max_consumers for config in plan.queues))
        self.lanes = [self._lane(config) for config in sorted(plan.queues, key=lambda c: LEVELS.index(c.priority))]
        self.health = Health(self.lanes, self.lifecycle)
        self._reclaimers: dict[str, Reclaimer] = {}
        self._dispatchers: dict[str, Dispatcher] = {}
        self._beat_failed: set[str] = set()
        self._keeper = LeaseKeeper(
            self.lanes,
            BeatConnection(plan.connections),
            heard=self._heard,
            failed=self._missed,
            broke=self.lifecycle.fail,
            about=self._about,
        )

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
        await self._prepare()
        lifespan = self._plan.lifespan or contextlib.nullcontext
        async with lifespan() as state, self._beating():
            self._dispatchers = {lane.queue: self._dispatcher(lane, state) for lane in self.lanes}
            # Senders stop before receivers: the settlers outlive whatever produces outcomes.
            async with anyio.create_task_group() as settlers:
                for dispatcher in self._dispatchers.values():
                    settlers.start_soon(self._guard, dispatcher.settler.run)
                try:
                    await self._serve()
                    cancelled = await self._drain()
                finally:
                    await self._abort()
                settlers.cancel_scope.cancel()
        await self._leave()
        self.executors.close()
        self.lifecycle.state = State.STOPPED
        if self.lifecycle.failure is not None:
            raise self.lifecycle.failure
        return cancelled

    async def _prepare(self) -> None:
        """Groups and names, or a clear end: the first 10 s are the time to notice a wrong address."""
        until = time.monotonic() + START_PATIENCE
        for lane in self.lanes:
            while True:
                try:
                    await lane.store.register()
                    await lane.store.ensure()
                    break
                except RedisUnavailable as error:
                    if time.monotonic() > until or await self.lifecycle.pause(0.5):
                        raise RedisUnavailable(
                            f"Redis at {self._plan.connections.url} was not reachable: {error}"
                        ) from error

    @contextlib.asynccontextmanager
    async def _beating(self) -> AsyncIterator[None]:
        self._keeper.start()
        try:
            # Redis may be away again: whoever is told to stop does not wait for it.
            for lane in self.lanes:
                await self.lifecycle.unless_quiet(self._keeper.renew(lane))
            yield
        finally:
            await self._keeper.stop()

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
                    roles.start_soon(self._guard, burst.keep, lane, fetcher)
                else:
                    roles.start_soon(self._guard, lane.supervisor.keep, "fetch", fetcher.run)
                roles.start_soon(self._guard, lane.supervisor.keep, "reclaim", reclaimer.run)
                roles.start_soon(self._guard, lane.supervisor.keep, "promote", Promoter(lane).run)
                roles.start_soon(self._guard, lane.supervisor.keep, "tidy up", Janitor(lane).run)
                if self._plan.keyspace.clustered:
                    mover = Mover(lane, self._plan.connections, self._plan.keyspace)
                    roles.start_soon(self._guard, lane.supervisor.keep, "move dead letters", mover.run)
                roles.start_soon(self._wake_when_quiet, lane, reader)
            roles.start_soon(self.health.run)
            self.lifecycle.started()

    async def _guard(self, role: Callable[..., Awaitable[None]], *args: Any) -> None:
        """A bug ends the worker, in order: what runs is cut short and handed back, then ``run`` raises it."""
        try:
            await role(*args)
        except Exception as bug:  # noqa: BLE001 - raised by `run`
            self.lifecycle.fail(bug)

    async def _wake_when_quiet(self, lane: Lane, reader: QueueReader) -> None:
        await self.lifecycle.until_quiet()
        lane.in_flight.poke()
        await reader.wake()

    async def _drain(self) -> int:
        """Give back what has not begun, wait for what runs, cut short what is left."""
        for dispatcher in self._dispatchers.values():
            dispatcher.release_unstarted()
        timeout = self._plan.drain_timeout
        timeout = self._plan.limits.drain_timeout if timeout is None else timeout
        if await self._empty_within(timeout):
            return 0
        cancelled = sum(dispatcher.cancel_started() for dispatcher in self._dispatchers.values())
        if not await self._told_within(CANCEL_PATIENCE):
            for dispatcher in self._dispatchers.values():
                dispatcher.give_back()
            if not await self._told_within(CANCEL_PATIENCE):  # Redis is away: others take over what it never heard of
                cancelled = max(cancelled, sum(len(lane.in_flight) for lane in self.lanes))
        return cancelled

    async def _empty_within(self, timeout: float) -> bool:
        """Whether all handlers ended before the time was up or somebody was in a hurry."""

        async def all_empty() -> None:
            for lane in self.lanes:
                await lane.in_flight.empty()
                await self._dispatchers[lane.queue].settler.empty()

        waits = [asyncio.ensure_future(all_empty()), asyncio.ensure_future(self.lifecycle.until_hurry())]
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        done = waits[0].done()
        for wait in waits:
            wait.cancel()
        return done

    async def _told_within(self, timeout: float) -> bool:
        """Whether Redis has heard of every outcome before the time was up."""
        try:
            async with asyncio.timeout(timeout):
                for dispatcher in self._dispatchers.values():
                    await dispatcher.told()
        except TimeoutError:
            return False
        return True

    async def _abort(self) -> None:
        """No handler outlives its worker: after a drain there is nothing to end, after a cancellation there may be."""
        tasks = [task for dispatcher in self._dispatchers.values() for task in dispatcher.abort()]
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_PATIENCE)

    async def _leave(self) -> None:
        """Remove our name where nothing of it is pending."""
        for lane in self.lanes:
            with contextlib.suppress(RedisUnavailable):
                await lane.store.forget(self.consumer, dead_after_ms=0)

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

    def _about(self, lane: Lane) -> str:
        return json.dumps(
            {
                "types": self._plan.registry.types(lane.queue),
                "slots": lane.in_flight.slots,
                "started_ms": round(self._plan.clock.time() * 1000),
                "python": ".".join(map(str, sys.version_info[:3])),
            }
        )

    def _lane(self, config: QueueConfig) -> Lane:
        plan = self._plan
        store = QueueStore(plan.connections, plan.keyspace, config.name, config.consumer_group)

        async def ensure() -> None:
            await plan.revive()
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
        plan = self._plan
        around = Surroundings(
            registry=plan.registry,
            keys=plan.keys,
            rules=plan.rules,
            layers=plan.middleware,
            state=state,
            publish=plan.publish,
            logger_for=plan.logger_for,
            isolation=self._isolation,
            executors=self.executors,
        )
        return Dispatcher(
            lane, around, is_fresh=self._keeper.is_fresh, renew=self._keeper.renew, failed=self.lifecycle.fail
        )
