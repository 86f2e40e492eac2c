"""The app, and what its handlers share while a worker runs."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from streamq import StreamQ
from workers.smtp import Mailer
from workers.smtp_settings import settings_from_env

app = StreamQ()


@dataclass(frozen=True, slots=True)
class State:
    """What handlers find in ``ctx.state``.

    Args:
        mailer: sends mail over one connection that stays open.
    """

    mailer: Mailer


@asynccontextmanager
async def lifespan() -> AsyncIterator[State]:
    """Read the environment when a worker starts, and say goodbye to the server when it ends."""
    async with Mailer(settings_from_env(os.environ)) as mailer:
        yield State(mailer)


app.lifespan(lifespan)
