"""The loop that one writes by hand with redis-py and uvloop: read 500, verify, await each handler, XACK and XDEL."""

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from benchmarks.contestants.entry import Entries
from benchmarks.peers import common

STREAM, GROUP = f"queue:{common.QUEUE}", "streamq"
BATCH = 500


def connect() -> Any:
    """A client as a careful user sets it up: binary, and no repeats behind one's back."""
    return redis.asyncio.Redis.from_url(common.redis_url(), retry=Retry(NoBackoff(), 0), max_connections=common.LANES)


def work(kind: str, concurrency: int) -> None:
    """Run one worker."""
    common.run(_work(kind, concurrency))


async def _work(kind: str, concurrency: int) -> None:
    """A no-op is awaited as it is; what suspends would keep the batch waiting and gets tasks, so many at a time."""
    handler, entries, decode = common.handler(kind), Entries(common.QUEUE), msgspec.json.Decoder().decode
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    count = BATCH if kind == "noop" else min(concurrency, BATCH)
    async with connect() as client:
        await client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
        while not stop.is_set():
            reply = await client.xreadgroup(GROUP, "by-hand", {STREAM: ">"}, count=count, block=1000)
            if not reply:
                continue
            batch = reply[0][1]
            payloads = [decode(entries.payload([*itertools.chain(*fields.items())])) for _, fields in batch]
            if kind == "sleep":
                await asyncio.gather(*map(handler, payloads))
            else:
                for payload in payloads:
                    await handler(payload)
            ids = [entry_id for entry_id, _ in batch]
            async with client.pipeline(transaction=False) as pipe:
                await pipe.xack(STREAM, GROUP, *ids).xdel(STREAM, *ids).execute()


@asynccontextmanager
async def publisher() -> AsyncIterator[common.Sender]:
    """One XADD a message, and pipelines of 500 for many."""
    entries, encode = Entries(common.QUEUE), msgspec.json.Encoder().encode

    def fields(payload: common.Payload) -> dict[bytes, bytes]:
        flat = iter(entries.make(encode(payload)))
        return dict(zip(flat, flat, strict=True))

    async with connect() as client:

        async def one(payload: common.Payload) -> None:
            await client.xadd(STREAM, fields(payload))

        async def many(payloads: list[common.Payload]) -> None:
            for start in range(0, len(payloads), BATCH):
                async with client.pipeline(transaction=False) as pipe:
                    for payload in payloads[start : start + BATCH]:
                        pipe.xadd(STREAM, fields(payload))
                    await pipe.execute()

        yield common.Sender(one, many)


PEER = common.Peer(
    name="redis_py",
    packages=("redis", "hiredis", "msgspec", "uvloop"),
    settings="redis.asyncio on uvloop with hiredis, XREADGROUP COUNT 500, signatures verified as fast as in the bare "
    "loop, each handler awaited in turn, XACK and XDEL in one pipeline a batch",
    delivery="at-least-once in name: nothing takes over what a dead worker held",
    publish=(common.ONE, common.CONCURRENT, common.MANY),
    publisher=publisher,
    work=work,
    signed=True,
)

if __name__ == "__main__":
    common.main(PEER)
