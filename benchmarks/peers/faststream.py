# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "faststream==0.7.8",
#   "redis==8.1.0",
#   "hiredis==3.5.0",
#   "uvloop==0.23.0",
#   "orjson==3.13.0",
# ]
# ///
# mypy: ignore-errors
"""faststream: a subscriber of a stream, a message at a time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import common

# isort: split
from faststream import AckPolicy, FastStream
from faststream.redis import RedisBroker, StreamSub

BATCH = 500  # messages of one XREADGROUP


def _broker(concurrency: int) -> RedisBroker:
    return RedisBroker(common.redis_url(concurrency), logger=None)


@asynccontextmanager
async def publisher() -> AsyncIterator[common.Sender]:
    """Connect; a bulk is a pipeline of publishes."""
    async with _broker(common.LANES) as broker:
        redis = await broker.connect()

        async def many(messages: list[common.Payload]) -> None:
            async with redis.pipeline(transaction=False) as pipeline:
                for message in messages:
                    await broker.publish(message, stream=common.QUEUE, pipeline=pipeline)
                await pipeline.execute()

        yield common.Sender(lambda message: broker.publish(message, stream=common.QUEUE), many)


def work(kind: str, concurrency: int) -> None:
    """Run faststream's application in this process."""
    broker, handle = _broker(concurrency), common.handler(kind)
    stream = StreamSub(common.QUEUE, group="bench", consumer="worker", last_id="0", max_records=BATCH)

    @broker.subscriber(stream=stream, max_workers=concurrency, ack_policy=AckPolicy.NACK_ON_ERROR)
    async def consume(message: dict) -> None:
        await handle(message)

    common.run(FastStream(broker, logger=None).run())


common.main(
    common.Peer(
        name="faststream",
        packages=("faststream", "redis", "hiredis", "orjson==3.13.0", "uvloop"),
        settings="one process, uvloop, orjson, a stream and a group, one message a handler call, 500 a read",
        delivery="at-least-once once a second subscriber reclaims; XACK after the handler, entries stay in the stream",
        publish=(common.ONE, common.CONCURRENT, common.MANY),
        publisher=publisher,
        work=work,
    )
)
