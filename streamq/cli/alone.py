"""What a child process runs for a message that cost two workers: the same app, as one more worker would have it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamq.runtime.child import Channel
    from streamq.settings import Settings


def serve_one(app: str | None, settings: "Settings", channel: "Channel") -> None:
    """Start the app, run the one message that comes, and end.

    Args:
        app: what ``--app`` said.
        settings: the worker's own.
        channel: to the worker.

    Raises:
        StreamqError: the app cannot be started here.
    """
    from streamq import logs
    from streamq.cli.options import load_app
    from streamq.cli.run import run_async
    from streamq.runtime.alone import run_one

    async def run() -> None:
        async with loaded.plan((), concurrency=None) as plan:
            await run_one(plan, channel)

    logs.configure(settings.log_level, settings.log_format)
    loaded = load_app(app)
    loaded.configure(settings)
    run_async(run)
