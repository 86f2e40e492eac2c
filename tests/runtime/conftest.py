"""A queue of a worker on a private server. At the end of each test the law of protocol 3.3 must hold."""

from contextlib import AsyncExitStack

import pytest
import redis

from streamq import StreamQ
from streamq.core.config import Config, WorkerConfig
from streamq.settings import Settings
from streamq.store.url import parse_url
from tests.runtime.rig import Books, Rig, Wire


@pytest.fixture
def server(empty_server):
    """One real server will do here: what the scripts do on each of them is the contract's business."""
    return empty_server("valkey-9.1")


@pytest.fixture
def raw(server):
    """Sends one command and returns the reply as Redis wrote it."""
    with redis.Redis.from_url(server.url, protocol=2) as client:
        client.response_callbacks.clear()
        yield client.execute_command


@pytest.fixture
async def make_rig(server, raw):
    """Make a rig that differs from the defaults."""
    async with AsyncExitStack() as stack:

        async def make(**differences):
            wire = Wire(parse_url(server.url))
            stack.push_async_callback(wire.aclose)
            rig = Rig(wire, raw, **differences)
            stack.push_async_callback(rig.aclose)
            await rig.store.ensure()
            wire.sent.clear()
            return rig

        yield make


@pytest.fixture
async def rig(make_rig):
    return await make_rig()


@pytest.fixture
def make_app(server):
    """Make an app on the private server whose queues differ from the defaults."""

    def make(*, url=None, limits=None, signing_keys=None, **queue):
        config = Config(defaults=queue, worker=WorkerConfig(**{"block": 0.5, **(limits or {})}))
        return StreamQ(settings=Settings(config=config, redis_url=url or server.url, signing_keys=signing_keys))

    return make


@pytest.fixture
def books(raw):
    """Looks at a queue of an app."""
    return Books(raw)
