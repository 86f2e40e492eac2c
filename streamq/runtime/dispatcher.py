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
from streamq.runtime.deadlines import NEVER, Deadlines
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
        self._deadlines = Deadlines(self._runs.values, self._time_is_up)
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
        run.due = NEVER
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
        isolation = self._around.isolation
        if not isolation.try_enter():
            await isolation.enter()
        try:
            return await self._handle(run, admission)
        finally:
            isolation.leave()

    async def _handle(self, run: Run, admission: Admission) -> Verdict | None:
        delivery = run.delivery
        if not self._is_fresh(self._lane) or time.monotonic() - delivery.proven_at > self._lane.trust:
            await self._renew(self._lane)  # this process was stopped, its loop was blocked, or Redis was away
        if delivery.lost or run.abandoned:
            return None
        delivery.started_at = time.monotonic()
        run.due = delivery.deadline = delivery.started_at + policy.time_limit(admission, self._lane.config)
        self._deadlines.watch(run)
        if self._lane.observers.routine:
            self._tell_started(admission)
        error: BaseException | None = None
        try:
            if run.child is None and admission.handler.executor != "process":
                await call(admission, delivery.deadline, self._around)
            else:
                await self._call_in_child(run, admission)
        except asyncio.CancelledError as cancelled:
            if run.cause is None and _is_being_cancelled():
                raise  # not ours: the loop itself is being closed
            error = cancelled
        except (Exception, SystemExit) as raised:  # noqa: BLE001 - whatever a handler raises is judged
            error = raised
        return self._concluded(run, admission, error)

    async def _call_in_child(self, run: Run, admission: Admission) -> None:
        delivery = run.delivery
        try:
            if run.child is not None:
                await run.child.ask(job_of(admission.message, delivery.deadline - delivery.started_at))
            else:
                fresh = delivery.losses >= policy.SUSPECT_FROM
                await call(admission, delivery.deadline, self._around, fresh=fresh)
        except WorkerDied:
            # Whoever ends a service may kill all its processes, in any order: a death is a verdict only if we live on.
            if await self._lane.lifecycle.pause(DYING_TOGETHER) and run.cause is None:
                run.cause = Cause.SHUTDOWN
            raise

    def _concluded(self, run: Run, admission: Admission, error: BaseException | None) -> Verdict | None:
        # Who was cancelled did not finish, however its handler took it: returning early is not success.
        if run.cause is Cause.TIMEOUT:
            error = HandlerTimeout(_limit_text(run))
        elif run.cause is not None and not run.in_thread:
            return self._stopped(run)
        if error is not None and run.delivery.lost:
            return None
        return self._verdict(
            run, policy.conclude(error, admission, run.delivery, self._lane.config, self._around.rules)
        )

    def _stopped(self, run: Run) -> Verdict | None:
        """Cancelled, and not for its own fault: no attempt. What was lost may have come back to us meanwhile."""
        return None if run.delivery.lost else self._verdict(run, Release())

    def _time_is_up(self, run: Run) -> None:
        if run.overdue:
            run.due = NEVER
            self._give_up(run)
            return
        run.overdue, run.due = True, run.due + GRACE
        if run.in_thread:
            text = "it runs in a thread, which cannot be stopped: make it async, or executor='process'"
            self._notice(run, f"{_limit_text(run)}; {text}")
        else:
            self._cancel(run, Cause.TIMEOUT)

    def _give_up(self, run: Run) -> None:
        """The grace is over: judge the message now; whatever still runs keeps its slot until it ends."""
        if run.admission is not None and not run.delivery.settling:
            limit = _limit_text(run)
            text = f"did not end within {GRACE:.0f} s after that; its slot stays taken until it does"
            self._notice(run, f"{limit} and {text}")
            outcome = policy.conclude(
                HandlerTimeout(limit), run.admission, run.delivery, self._lane.config, self._around.rules
            )
            self._abandon(run, outcome)

    def _notice(self, run: Run, text: str) -> None:
        self._lane.observers.notify(Noticed(self._lane.queue, text, run.delivery.message_id))

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
        if not self._runs:
            self._deadlines.rest()
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


def _limit_text(run: Run) -> str:
    kind = run.admission.message.type if run.admission is not None else "it"
    return f"{kind} ran into its time limit of {run.delivery.deadline - run.delivery.started_at:g} s"


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
