"""Suspects: a message that cost two workers runs by itself, so that its next death is a verdict, on it alone.

In a child process, where it takes nobody along and nothing has to pause. Where there can be no child, alone in the
worker, marked, so that whoever takes it over knows how it died.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from streamq.core import policy
from streamq.core.events import Noticed
from streamq.core.message import Delivery
from streamq.core.outcome import Outcome, Release
from streamq.core.policy import Admission, NoChild
from streamq.runtime.child import Program
from streamq.runtime.children import Child
from streamq.runtime.lane import Lane
from streamq.runtime.run import Run, Surroundings
from streamq.runtime.settler import Verdict

PATIENT_FROM = 5  # losses from which a suspect runs alone, child or not, and waits however long that takes
SUSPECT_PAUSE_MS, TURN_PAUSE_MS, PATIENT_AFTER_MS = 30_000, 1_000, 300_000
MOST_APPS = 4  # child processes at once in which the app is started: each costs its memory and its start-up time
LEAVE_PATIENCE = 5.0  # seconds that an app in a child process gets to leave its lifespan

Handle = Callable[[Run, Admission], Awaitable[Verdict | None]]


class Suspects:
    """Runs the suspects of one queue.

    Args:
        lane: the queue.
        around: what all queues share.
        alone: runs a handler that may, and judges how it ended.
        beside: the same, but no suspect runs alone meanwhile.
        verdict: makes a verdict of an outcome.
    """

    def __init__(
        self, lane: Lane, around: Surroundings, *, alone: Handle, beside: Handle,
        verdict: Callable[[Run, Outcome], Verdict],
    ) -> None:  # fmt: skip
        self._lane, self._around = lane, around
        self._handle_alone, self._handle_beside_others, self._verdict = alone, beside, verdict

    async def run(self, run: Run, admission: Admission) -> Verdict | None:
        """What becomes of a suspect; None when it is not ours any more."""
        handler, executors, program = admission.handler, self._around.executors, self._around.suspects
        if program is None or handler.executor == "process" or handler.isolate == "worker":
            return await self._run(run, admission)
        in_turn = run.delivery.losses >= PATIENT_FROM and self._around.isolation.taken
        if in_turn or executors.apps + executors.leaving >= MOST_APPS:  # an app that leaves its lifespan is there still
            return self._come_back_soon(run)
        executors.apps += 1
        try:
            async with self._child(run, program):
                return await self._run(run, admission)
        finally:
            executors.apps -= 1

    async def _run(self, run: Run, admission: Admission) -> Verdict | None:
        in_child = run.child is not None or admission.handler.executor == "process"
        if in_child and run.delivery.losses < PATIENT_FROM:
            return await self._handle_beside_others(run, admission)
        return await self._alone(run, admission)

    def _come_back_soon(self, run: Run) -> Verdict:
        return self._verdict(run, policy.release_suspect(run.delivery, TURN_PAUSE_MS, self._lane.clock.now_ms()))

    @contextlib.asynccontextmanager
    async def _child(self, run: Run, program: Program) -> AsyncIterator[None]:
        """Start the app in a child process, if it can be there twice."""
        try:
            run.child = await Child.start(program)
        except NoChild as error:
            text = f"a suspect has no process of its own, so it runs alone in this one: {error}"
            self._lane.observers.notify(Noticed(self._lane.queue, text, run.delivery.message_id))
        try:
            yield
        finally:
            if run.child is not None:
                self._around.executors.let_go(run.child, LEAVE_PATIENCE)

    async def _alone(self, run: Run, admission: Admission) -> Verdict | None:
        delivery, isolation = run.delivery, self._around.isolation
        now_ms = self._lane.clock.now_ms()
        if isolation.taken:  # whoever waits beside another suspect is lost with it
            return self._come_back_soon(run)
        patience = None if _is_patient(delivery, now_ms) else self._lane.config.lease
        async with isolation.alone(patience) as nothing_else_runs:
            if not nothing_else_runs:
                return self._verdict(run, policy.release_suspect(delivery, SUSPECT_PAUSE_MS, now_ms))
            delivery.started_at = time.monotonic()  # from here on a shutdown lets it end
            if not await self._mark(run, marked=True):
                return None
            if self._lane.lifecycle.is_quiet:
                return self._verdict(run, Release())
            async with self._marked_until_quiet(run):
                return await self._handle_alone(run, admission)

    async def _mark(self, run: Run, *, marked: bool) -> bool:
        """Set the mark, or take it off. Returns whether the entry is still ours."""
        lane, delivery = self._lane, run.delivery
        run.marking = True
        token = await lane.supervisor.insist(
            "isolate", lambda: lane.store.alone(lane.consumer, delivery, marked=marked), lambda: True
        )
        run.marking = False
        if token is not None:
            delivery.token = token
        return token is not None

    @contextlib.asynccontextmanager
    async def _marked_until_quiet(self, run: Run) -> AsyncIterator[None]:
        """A worker that was told to end may be killed before its handlers have ended: that is no death of theirs."""

        async def unmark() -> None:
            await self._lane.lifecycle.until_quiet()
            await self._mark(run, marked=False)

        task = asyncio.ensure_future(unmark())
        try:
            yield
            if run.marking:  # the outcome needs the token that this brings
                await task
        finally:
            task.cancel()


def _is_patient(delivery: Delivery, now_ms: int) -> bool:
    """Whether a suspect waits for its turn however long that takes: it cost much, or was put off for long."""
    held_since = delivery.counter(b"held_since")
    return delivery.losses >= PATIENT_FROM or 0 < held_since < now_ms - PATIENT_AFTER_MS
