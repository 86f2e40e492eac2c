"""One run of a handler, from its delivery's slot to its end."""

import asyncio
from dataclasses import dataclass
from enum import StrEnum

from streamq.core.message import Delivery
from streamq.core.policy import Admission


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
    timer: asyncio.TimerHandle | None = None
    cause: Cause | None = None  # why it was cancelled
    abandoned: bool = False  # judged already, but its handler cannot be stopped
    settled: bool = False

    @property
    def in_thread(self) -> bool:
        """Whether its handler runs in a thread: nothing can stop it."""
        admission = self.admission
        return admission is not None and admission.handler.executor == "thread" and self.delivery.started_at > 0
