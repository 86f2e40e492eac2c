"""``streamq demo``: the main job on real input, with a worker killed in the middle.

Mails go through a real server and a real worker process to a local SMTP server that stands for the outside world.
What is claimed at the end is read back from that server, not from our own counters.
"""

from typing import Annotated

import typer

from streamq.cli.options import option
from streamq.cli.run import FAILURE, command


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(command(demo))


async def demo(
    mails: Annotated[int, option("--mails", min=10, max=2000, help="How many good mails.")] = 60,
) -> None:  # fmt: skip
    """Send mails through a worker that is killed half-way, and count what arrived.

    Starts an embedded server, a local SMTP server and a worker; publishes good mails, one that is deferred first, one
    whose address is refused, one delayed, one with a forged signature and one of an unknown type; kills the worker
    with kill -9 and starts another. Exits with 1 when a figure is off.
    """
    from streamq.cli.demo.story import tell

    if not await tell(mails):
        raise typer.Exit(FAILURE)
