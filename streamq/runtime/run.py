"""One run of a handler, from its delivery's slot to its end, and what surrounds it."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from streamq.core.config import ErrorRules
from streamq.core.context import PublishCall
from streamq.core.message import Delivery, Message
from streamq.core.middleware import Middleware
from streamq.core.policy import Admission
from streamq.core.registry import Registry
from streamq.core.signing import KeyRing
from streamq.runtime.child import Program
from streamq.runtime.children import Child
from streamq.runtime.executors import Executors
from streamq.runtime.isolation import Isolation
from streamq.runtime.plan import Plan


class Cause(StrEnum):
    """Why a run was cancelled."""

    TIMEOUT = "timeout"
    LOST = "lost"
    SHUTDOWN = "shutdown"


@dataclass(slots=True, eq=False)
class Run:
    """A delivery and the task that runs its handler."""

    delivery: Delivery
    task: asyncio.Task[None] | None = None
    admission: Admission | None = None
    due: float = float("inf")  # monotonic: when it has had its time; then, when it has had its grace
    overdue: bool = False  # it has had its time
    begun: bool = False  # its task has made its first step
    cause: Cause | None = None  # why it was cancelled
    child: Child | None = None  # the process that a suspect has for itself
    marking: bool = False  # its token changes just now: what a beat says about the old one means nothing
    abandoned: bool = False  # judged already, but its handler cannot be stopped
    settled: bool = False

    @property
    def in_thread(self) -> bool:
        """Whether its handler runs in a thread: nothing can stop it."""
        admission = self.admission
        if admission is None or self.child is not None:
            return False
        return admission.handler.executor == "thread" and self.delivery.started_at > 0


@dataclass(slots=True, kw_only=True)
class Surroundings:
    """What every dispatcher of a worker shares.

    Args:
        registry: the app's handlers.
        keys: all signing keys.
        rules: the configured classes of errors.
        layers: the app's middleware, the outermost first.
        state: what the app's lifespan yielded.
        publish: behind ``ctx.publish``.
        logger_for: a logger that carries the ids of a message.
        isolation: the gate of this process.
        executors: its threads and children.
        suspects: what a suspect's child process runs: the app once more; None = there can be no such child.
    """

    registry: Registry
    keys: KeyRing
    rules: ErrorRules
    layers: Sequence[Middleware]
    state: Any
    publish: PublishCall
    logger_for: Callable[[Message], Any]
    isolation: Isolation
    executors: Executors
    suspects: Program | None = None

    @classmethod
    def of(cls, plan: Plan, state: Any, isolation: Isolation, executors: Executors) -> "Surroundings":
        """Those of a process that carries out a plan."""
        return cls(
            registry=plan.registry, keys=plan.keys, rules=plan.rules, layers=plan.middleware, state=state,
            publish=plan.publish, logger_for=plan.logger_for, isolation=isolation, executors=executors,
            suspects=plan.suspects,
        )  # fmt: skip
