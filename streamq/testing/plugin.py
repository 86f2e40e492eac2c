"""Fixtures for the tests of apps. Loaded in every run of every user: whatever costs time is imported inside.

``streamq_server``: a private server for the session. ``streamq_app``: points an app at it, emptied, for one test::

    async def test_welcome(streamq_app):
        async with streamq_app(app):
            await send_welcome.publish(recipient="ada@example.org")
            await app.worker(burst=True).run()
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from streamq.app import StreamQ
    from streamq.testing.server import PrivateServer


@pytest.fixture(scope="session")
def streamq_server() -> Iterator["PrivateServer"]:
    """A server that nobody else uses, gone with the session."""
    from streamq.testing.server import PrivateServer

    with PrivateServer() as server:
        yield server


@pytest.fixture
def streamq_app(streamq_server: "PrivateServer") -> Iterator[Callable[["StreamQ"], "StreamQ"]]:
    """Point apps at the private server, emptied; afterwards they look for their own Redis again."""
    from streamq.settings import load_settings

    pointed: list[StreamQ] = []

    def point(app: "StreamQ") -> "StreamQ":
        app.configure(load_settings(redis_url=streamq_server.url))
        pointed.append(app)
        return app

    streamq_server.empty()
    yield point
    for app in pointed:
        app.configure(None)
