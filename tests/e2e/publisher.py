"""A process that publishes as fast as it can: `python -m tests.e2e.publisher NAME COUNT`; prints what became of it."""

import asyncio
import collections
import json
import sys

from streamq import QueueFull, StreamQ


async def main(name, count):
    outcomes = collections.Counter()
    async with StreamQ() as app:

        async def publish(number):
            try:
                await app.publish("work", {"type": "ok", "key": f"{name}-{number}"})
                outcomes["accepted"] += 1
            except QueueFull:
                outcomes["refused"] += 1

        for start in range(0, count, 20):
            await asyncio.gather(*(publish(number) for number in range(start, min(count, start + 20))))
    sys.stdout.write(json.dumps(outcomes))


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
