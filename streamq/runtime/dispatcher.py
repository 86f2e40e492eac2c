"""Dispatch: delivery -> outcome. Verify, decode, resolve, middleware, handler, conclude. Returns, never raises."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from streamq.core import policy
from streamq.core.events import LeaseLost, Noticed, Started
from streamq.core.message import Delivery, Message
from streamq.core.outcome import Outcome, Release
from streamq.core.policy import Admission, HandlerTimeout, WorkerDied
from streamq.runtime.alone import job_of
from streamq.runtime.call import call
from streamq.runtime.lane import GRACE, Lane
from streamq.runtime.run import Cause, Run, Surroundings
from streamq.runtime.settler import Settler, Verdict
from streamq.runtime.suspects import Suspects

DYING_TOGETHER = 0.5  # seconds within which whoever killed our child would kill us


class Dispatcher:
    """Runs the deliveries of one queue.

    Args:
        lane: the queue.
        around: what all queues share.
        is_fresh: whether our leases are proven to hold.
        renew: prove it; sets ``lost`` on what is not ours any more.
        failed: told of a bug in here.
    """

    def __init__(
        self, lane: Lane, around: Surroundings, *, is_fresh: Callable[[Lane], bool],
        renew: Callable[[Lane], Awaitable[None]], failed: Callable[[BaseException], None],
    ) -> None:  # fmt: skip
        self._lane, self._around = lane, around
        self._is_fresh, self._renew, self._failed = is_fresh, renew, failed
        self._runs: dict[Delivery, Run] = {}
        self._suspects = Suspects(
            lane, around, alone=self._handle, beside=self._handle_beside_others, verdict=self._verdict
        )
        self.settler = Settler(lane, self._settled)

    def start(self, delivery: Delivery) -> None:
        """Give a delivery its slot and its task. What runs here already is left alone."""
        if self._lane.in_flight.take(delivery):
            run = self._runs[delivery] = Run(delivery)
            run.task = asyncio.get_running_loop().create_task(self._run(run))

    def release(self, delivery: Delivery) -> None:
        """Give back a delivery that never got a slot."""
        self.settler.put(Verdict(delivery, Release()))

    def lease_lost(self, delivery: Delivery, token: int) -> None:
        """A beat says that another worker owns a delivery: its handler is cancelled and its failure discarded."""
        run = self._runs.get(delivery)
        if run is None or run.marking or delivery.token != token or delivery.settling or delivery.lost:
            return
        delivery.lost = True
        self._lane.observers.notify(LeaseLost(self._lane.queue, delivery.message_id))
        self._cancel(run, Cause.LOST)

    def message_of(self, task: asyncio.Task[Any] | None) -> Message | None:
        """The message whose handler a task runs, if it is one of ours. Safe to call from another thread."""
        admission = next((run.admission for run in list(self._runs.values()) if run.task is task), None)
        return admission.message if admission is not None else None

    def release_unstarted(self) -> None:
        """Shutdown: whatever has not begun goes back to the stream."""
        for run in list(self._runs.values()):
            if run.delivery.started_at == 0:
                self._cancel(run, Cause.SHUTDOWN)

    def cancel_started(self) -> int:
        """Shutdown: cut short what still runs, without an attempt. Returns how many there were."""
        running = [run for run in self._runs.values() if not run.delivery.settling]
        for run in running:
            if run.in_thread:
                self._abandon(run, Release())
            else:
                self._cancel(run, Cause.SHUTDOWN)
        return len(running)

    def held(self) -> int:
        """How many deliveries have a slot."""
        return len(self._lane.in_flight)

    async def empty(self) -> None:
        """Wait until nothing is held, and Redis has every outcome."""
        await self._lane.in_flight.empty()
        await self.settler.empty()

    async def told(self) -> None:
        """Wait until Redis has the outcome of every delivery; a handler that cannot be stopped may still run."""
        while any(not run.settled for run in self._runs.values()):
            await self._lane.in_flight.changed()
        await self.settler.empty()

    def abort(self) -> list[asyncio.Task[None]]:
        """No handler outlives the worker. Returns what has yet to end; what it held is taken over by others."""
        tasks = [run.task for run in self._runs.values() if run.task is not None]
        for task in tasks:
            task.cancel()
        return tasks

    def give_back(self) -> None:
        """Shutdown, at last: what was cut short and does not end is released while it still runs."""
        for run in self._runs.values():
            if not run.delivery.settling:
                self._abandon(run, Release())

    async def _run(self, run: Run) -> None:
        run.begun = True
        try:
            verdict = await self.dispatch(run) if run.cause is None else self._stopped(run)
        except asyncio.CancelledError:
            if run.cause is None:
                raise
            verdict = self._stopped(run)
        except BaseException as bug:  # noqa: BLE001 - told to the worker, which raises it
            # The worker ends loudly. The entry stays pending, so that whoever takes it over counts the loss: given back
            # with a clean record it would end one worker after the other.
            self._failed(bug)
            self._forget(run)
            return
        if run.timer is not None:
            run.timer.cancel()
        if run.abandoned:
            run.task = None
            if run.settled:
                self._forget(run)
        elif verdict is None:
            self._forget(run)
        else:
            self.settler.put(verdict)

    async def dispatch(self, run: Run) -> Verdict | None:
        """What becomes of a delivery; None when it is not ours any more."""
        delivery, around = run.delivery, self._around
        admitted = policy.admit(
            delivery, self._lane.config, around.keys, around.registry, self._lane.clock.now_ms()
        )  # fmt: skip
        if not isinstance(admitted, Admission):
            return Verdict(delivery, admitted)
        run.admission = admitted
        if delivery.losses >= policy.SUSPECT_FROM:
            return await self._suspects.run(run, admitted)
        return await self._handle_beside_others(run, admitted)

    async def _handle_beside_others(self, run: Run, admission: Admission) -> Verdict | None:
        await self._around.isolation.enter()
        try:
            return await self._handle(run, admission)
        finally:
            self._around.isolation.leave()

    async def _handle(self, run: Run, admission: Admission) -> Verdict | None:
        delivery, handler = run.delivery, admission.handler
        if not self._is_fresh(self._lane) or time.monotonic() - delivery.proven_at > self._lane.trust:
            await self._renew(self._lane)  # this process was stopped, its loop was blocked, or Redis was away
        if delivery.lost or run.abandoned:
            return None
        limit = policy.time_limit(admission, self._lane.config)
        delivery.started_at = time.monotonic()
        delivery.deadline = delivery.started_at + limit
        run.timer = asyncio.get_running_loop().call_later(
            limit, self._time_is_up, run, _limit_text(handler.type, limit)
        )
        if self._lane.observers.routine:
            self._tell_started(admission)
        error: BaseException | None = None
        try:
            await self._call(run, admission, limit)
        except asyncio.CancelledError as cancelled:
            if run.cause is None and _is_being_cancelled():
                raise  # not ours: the loop itself is being closed
            error = cancelled
        except (Exception, SystemExit) as raised:  # noqa: BLE001 - whatever a handler raises is judged
            error = raised
        # Who was cancelled did not finish, however its handler took it: returning early is not success.
        if run.cause is Cause.TIMEOUT:
            error = HandlerTimeout(_limit_text(handler.type, limit))
        elif run.cause is not None and not run.in_thread:
            return self._stopped(run)
        if error is not None and run.delivery.lost:
            return None
        return self._verdict(
            run, policy.conclude(error, admission, delivery, self._lane.config, self._around.rules)
        )  # fmt: skip

    def _stopped(self, run: Run) -> Verdict | None:
        """Cancelled, and not for its own fault: no attempt. What was lost may have come back to us meanwhile."""
        return None if run.delivery.lost else self._verdict(run, Release())

    async def _call(self, run: Run, admission: Admission, limit: float) -> None:
        try:
            if run.child is not None:
                await run.child.ask(job_of(admission.message, limit))
            else:
                fresh = run.delivery.losses >= policy.SUSPECT_FROM
                await call(admission, run.delivery.deadline, self._around, fresh=fresh)
        except WorkerDied:
            # Whoever ends a service may kill all its processes, in any order: a death is a verdict only if we live on.
            if await self._lane.lifecycle.pause(DYING_TOGETHER) and run.cause is None:
                run.cause = Cause.SHUTDOWN
            raise

    def _time_is_up(self, run: Run, limit: str) -> None:
        if run.in_thread:
            text = f"{limit}; it runs in a thread, which cannot be stopped: make it async, or executor='process'"
            self._lane.observers.notify(Noticed(self._lane.queue, text, run.delivery.message_id))
        else:
            self._cancel(run, Cause.TIMEOUT)
        run.timer = asyncio.get_running_loop().call_later(GRACE, self._give_up, run, limit)

    def _give_up(self, run: Run, limit: str) -> None:
        """The grace is over: judge the message now; whatever still runs keeps its slot until it ends."""
        if run.admission is not None and not run.delivery.settling:
            text = f"{limit} and did not end within {GRACE:.0f} s after that; its slot stays taken until it does"
            self._lane.observers.notify(Noticed(self._lane.queue, text, run.delivery.message_id))
            outcome = policy.conclude(
                HandlerTimeout(limit), run.admission, run.delivery, self._lane.config, self._around.rules
            )
            self._abandon(run, outcome)

    def _abandon(self, run: Run, outcome: Outcome) -> None:
        run.abandoned = True
        self.settler.put(self._verdict(run, outcome))

    def _cancel(self, run: Run, cause: Cause) -> None:
        if run.cause is None and run.task is not None and not run.delivery.settling:
            run.cause = cause
            if run.begun and not run.in_thread:  # a task that is cancelled before its first step never runs
                run.task.cancel(cause)

    def _settled(self, delivery: Delivery) -> None:
        run = self._runs.get(delivery)
        if run is not None:
            run.settled = True
            if not (run.abandoned and run.task is not None):
                self._forget(run)
            else:
                self._lane.in_flight.poke()

    def _forget(self, run: Run) -> None:
        self._runs.pop(run.delivery, None)
        self._lane.in_flight.drop(run.delivery)

    def _verdict(self, run: Run, outcome: Outcome) -> Verdict:
        started = run.delivery.started_at
        kind = run.admission.message.type if run.admission is not None else None
        return Verdict(run.delivery, outcome, kind, time.monotonic() - started if started else 0.0)

    def _tell_started(self, admission: Admission) -> None:
        message, created = admission.message, admission.message.metadata.created_at
        waited = self._lane.clock.now_ms() - policy.milliseconds(created) if created is not None else None
        self._lane.observers.notify_routine(
            Started(message.queue, message.id, message.type, message.retry_count + 1, waited)
        )


def _limit_text(message_type: str, limit: float) -> str:
    return f"{message_type} ran into its time limit of {limit:g} s"


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
