"""A worker and a producer as they are written in an afternoon. In this house they must fail: that shows that it bites.

MAXLEN on publish, redis-py's own retries, acknowledged first and scheduled again second, no beats, orphans by idle time
alone, and what cannot be read is thrown away.
"""

import argparse
import asyncio
import contextlib
import importlib
import inspect
import json
import os
import signal
import time
import uuid
from types import SimpleNamespace

import redis
import redis.asyncio

from streamq import Drop, Reject, Snooze
from tests.chaos.history import ACCEPTED, UNKNOWN, note
from tests.chaos.remains import Letter, Remains
from tests.chaos.story import QUEUES

GROUP, DEAD = "naive", "naive:dead"
MOST = 1000  # entries that a stream keeps
IDLE = 4000  # milliseconds after which an entry is taken over: no handler takes that long, surely
RETRIES = 3


def stream(queue):
    return f"naive:{queue}"


def delayed(queue):
    return f"naive:{queue}:delayed"


class NaiveDoor:
    """Publishes with the client as it comes out of the box."""

    def __init__(self):
        self._redis = redis.asyncio.Redis.from_url(os.environ["STREAMQ_REDIS_URL"])

    async def one(self, plan):
        body = json.dumps({**plan.payload, "id": uuid.uuid4().hex, "tries": 0})
        try:
            if delay := plan.options.get("delay"):
                await self._redis.zadd(delayed(plan.queue), {body: time.time() + delay})
            else:
                await self._redis.xadd(stream(plan.queue), {"body": body}, maxlen=MOST)
            note(ACCEPTED, plan.key, plan.queue, plan.kind)
        except (redis.RedisError, OSError):
            note(UNKNOWN, plan.key, plan.queue, plan.kind)

    async def several(self, plans):
        for plan in plans:
            await self.one(plan)


class NaiveWorker:
    """Reads, runs, acknowledges."""

    def __init__(self, app, queue, concurrency):
        self._registry, self._queue = app.registry, queue
        self._redis = redis.asyncio.Redis.from_url(os.environ["STREAMQ_REDIS_URL"])
        self._name, self._concurrency = f"{os.getpid()}", concurrency
        self._running = set()

    async def run(self):
        """Serve for ever; whatever goes wrong, try again in a second."""
        roles = (self._read, self._promote, self._reclaim)
        await asyncio.gather(*(self._keep(role) for role in roles))

    async def _keep(self, role):
        while True:
            with contextlib.suppress(redis.RedisError, OSError):
                with contextlib.suppress(redis.ResponseError):
                    await self._redis.xgroup_create(stream(self._queue), GROUP, "0", mkstream=True)
                while True:
                    await role()
            await asyncio.sleep(1)

    async def _read(self):
        free = self._concurrency - len(self._running)
        if free <= 0:
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            return
        found = await self._redis.xreadgroup(GROUP, self._name, {stream(self._queue): ">"}, count=free, block=1000)
        for _, entries in found:
            self._start(entries)

    async def _promote(self):
        due = await self._redis.zrangebyscore(delayed(self._queue), 0, time.time())
        for body in due:
            await self._redis.xadd(stream(self._queue), {"body": body}, maxlen=MOST)
        if due:
            await self._redis.zrem(delayed(self._queue), *due)
        await asyncio.sleep(0.5)

    async def _reclaim(self):
        _, entries, *_ = await self._redis.xautoclaim(stream(self._queue), GROUP, self._name, IDLE, count=10)
        self._start(entries)
        await asyncio.sleep(1)

    def _start(self, entries):
        for entry, fields in entries:
            task = asyncio.create_task(self._handle(entry, fields))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _handle(self, entry, fields):
        with contextlib.suppress(redis.RedisError, OSError):
            body = json.loads(fields[b"body"])
            handler = self._registry.resolve(self._queue, body["type"])
            if handler is None:  # nobody knows it
                await self._acknowledge(entry)
                return
            try:
                await self._call(handler, body)
            except Drop:
                await self._acknowledge(entry)
            except Reject as error:
                await self._acknowledge(entry)
                await self._bury(body, "rejected", error)
            except Exception as error:  # noqa: BLE001 - whatever it is, it failed
                await self._acknowledge(entry)
                await self._again(body, error)
            else:
                await self._acknowledge(entry)

    async def _call(self, handler, body):
        context = SimpleNamespace(attempt=body["tries"] + 1, message=SimpleNamespace(queue=self._queue))
        wanted = inspect.signature(handler.function).parameters
        arguments = {name: body[name] for name in wanted if name in body}
        arguments |= {"ctx": context} if "ctx" in wanted else {}
        if inspect.iscoroutinefunction(handler.function):
            await asyncio.wait_for(handler.function(**arguments), 20)
        else:
            await asyncio.to_thread(handler.function, **arguments)

    async def _acknowledge(self, entry):
        await self._redis.xack(stream(self._queue), GROUP, entry)

    async def _again(self, body, error):
        if not isinstance(error, Snooze):
            body["tries"] += 1
        if body["tries"] > RETRIES:
            await self._bury(body, "max_retries", error)
        else:
            await self._redis.zadd(delayed(self._queue), {json.dumps(body): time.time() + 0.3})

    async def _bury(self, body, reason, error):
        letter = {"key": body["key"], "queue": self._queue, "reason": reason, "error": str(error)}
        await self._redis.rpush(DEAD, json.dumps(letter))


def read(url):
    """The final state: what is pending or undelivered, what waits, what is dead."""
    left, letters = {}, []
    with redis.Redis.from_url(url, socket_timeout=30) as client:
        for queue in QUEUES:
            with contextlib.suppress(redis.ResponseError):
                for entry, body in _unfinished(client, queue):
                    left.setdefault(json.loads(body)["key"], []).append(f"{stream(queue)} {entry}")
            for body in client.zrange(delayed(queue), 0, -1):
                left.setdefault(json.loads(body)["key"], []).append(delayed(queue))
        for text in client.lrange(DEAD, 0, -1):
            letter = json.loads(text)
            letters.append(Letter(letter["key"], letter["queue"], letter["reason"], letter))
    return Remains(left, letters)


def _unfinished(client, queue):
    (group,) = client.xinfo_groups(stream(queue))
    pending = client.xpending_range(stream(queue), GROUP, "-", "+", 10_000)
    entries = [client.xrange(stream(queue), item["message_id"], item["message_id"]) for item in pending]
    entries.append(client.xrange(stream(queue), b"(" + group["last-delivered-id"]))
    return [(entry.decode(), fields[b"body"]) for found in entries for entry, fields in found]


async def main(options):
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, os._exit, 0)
    module, _, name = options.app.partition(":")
    app = getattr(importlib.import_module(module), name)
    await asyncio.gather(*(NaiveWorker(app, queue, options.concurrency).run() for queue in options.queue))


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--queue", action="append")
    arguments.add_argument("--app")
    arguments.add_argument("--concurrency", type=int)
    asyncio.run(main(arguments.parse_args()))
