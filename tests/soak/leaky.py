"""The app of the chaos run with a leak in it: planted, so that the soak is seen to find it."""

import asyncio
import contextlib
import os

import redis

from tests.chaos.app_next import app

__all__ = ["app"]
LEAK = "SOAK_LEAK"  # the variable that says which, separated by commas
held = []


def _key():
    with redis.Redis.from_url(os.environ["STREAMQ_REDIS_URL"], socket_timeout=1) as client:
        client.set(f"leaked:{os.getpid()}:{len(held)}", "x")
    held.append(None)


LEAKS = {
    "memory": lambda: held.append(os.urandom(64 * 1024)),
    "fds": lambda: held.append(os.open(os.devnull, os.O_RDONLY)),
    "keys": _key,
    "tasks": lambda: held.append(asyncio.create_task(asyncio.Event().wait())),
}


@app.middleware
async def leak(_, call_next):
    # The network misbehaves on purpose, and there is an end to descriptors.
    with contextlib.suppress(redis.RedisError, OSError):
        for name in os.environ[LEAK].split(","):
            LEAKS[name]()
    return await call_next()
