"""The next version of the app: it knows one type more."""

from streamq import Context
from tests.chaos.app import app, told
from tests.chaos.story import QUEUES

__all__ = ["app"]


@app.handler(QUEUES)
async def novel(key: str, ctx: Context) -> None:
    with told("novel", key, ctx.message.queue):
        pass
