"""A producer process: publishes at a steady rate, whatever happens, and writes down what it was told."""

import argparse
import asyncio
import contextlib
import signal
import time

from streamq import PublishUnknown, QueueFull, StreamQ
from streamq.core.errors import RedisUnavailable, StreamqError
from tests.chaos.history import ACCEPTED, INTENT, REFUSED, UNKNOWN, note
from tests.chaos.story import Author

AT_ONCE = 8  # messages whose fate is open at the same time
BATCH_EVERY, BATCH = 20, 10  # every so often several go out as one call
PATIENCE = 45.0  # seconds after the end for what is still open; then it stays unknown


class Door:
    """How streamq is asked to publish, as its documentation says."""

    def __init__(self, app):
        self._app = app

    async def one(self, plan):
        """Publish one message and write down what came of it."""
        try:
            receipt = await self._app.publish(plan.queue, plan.payload, **plan.options)
            _say(ACCEPTED if not receipt.duplicate else REFUSED, plan, receipt.id)
            if plan.kind == "once":
                await self._copy(plan, receipt.id)
        except QueueFull:
            _say(REFUSED, plan, "full")
        except PublishUnknown as error:
            _say(UNKNOWN, plan, error.id)
            await self._resend(plan, error.id)
        except RedisUnavailable:
            _say(REFUSED, plan, "unavailable")

    async def several(self, plans):
        """Publish messages of one queue and one set of options in one call."""
        try:
            receipts = await self._app.publish_many(plans[0].queue, [plan.payload for plan in plans])
        except QueueFull as error:
            receipts = error.receipts
        except RedisUnavailable:
            receipts = None
        except PublishUnknown:  # of the first that met it: the others may be in or not
            receipts = None
        for number, plan in enumerate(plans):
            if receipts is None:
                _say(UNKNOWN, plan, "batch")
            elif receipts[number] is None:
                _say(REFUSED, plan, "full")
            else:
                _say(ACCEPTED, plan, receipts[number].id)

    async def _copy(self, plan, first):
        """The same idempotency key again: a duplicate, which nobody may ever run, whatever its publish returns."""
        copy = plan._replace(key=f"{plan.key}-copy", payload={**plan.payload, "key": f"{plan.key}-copy"})
        _say(INTENT, copy)
        _say(REFUSED, copy, f"copy-of-{first}")
        with contextlib.suppress(StreamqError):
            await self._app.publish(copy.queue, copy.payload, **copy.options)

    async def _resend(self, plan, message_id):
        """Whoever does not know asks again with the same id."""
        with contextlib.suppress(StreamqError):
            receipt = await self._app.publish(plan.queue, plan.payload, message_id=message_id, **plan.options)
            _say(ACCEPTED, plan, receipt.id)


def _say(what, plan, text="-"):
    if what == INTENT:
        text = f"{plan.options.get('delay', 0)}"
    note(what, plan.key, plan.queue, plan.kind, text)


class Producer:
    """Publishes until it is told to stop.

    Args:
        door: how.
        author: what.
        rate: messages a second.
    """

    def __init__(self, door, author, rate):
        self._door, self._author, self._pause = door, author, AT_ONCE / rate
        self._stop = asyncio.Event()
        self._count = 0

    async def run(self):
        """Publish; return when everything is known, or patience is at its end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        lines = [asyncio.create_task(self._line()) for _ in range(AT_ONCE)]
        await self._stop.wait()
        _, open_ = await asyncio.wait(lines, timeout=PATIENCE)
        for line in open_:
            line.cancel()
        await asyncio.gather(*lines)

    async def _line(self):
        due = time.monotonic()
        while not self._stop.is_set():
            self._count += 1
            with contextlib.suppress(asyncio.CancelledError):
                due += await self._publish() * self._pause
            # After an outage it goes on at its rate: what was not published then is not made up for.
            due = max(due, time.monotonic() - self._pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), max(0.0, due - time.monotonic()))

    async def _publish(self):
        if self._count % BATCH_EVERY:
            plan = self._author.next()
            _say(INTENT, plan)
            await self._door.one(plan)
            return 1
        first = self._author.next("quick")
        plans = [first, *(self._author.next("quick")._replace(queue=first.queue) for _ in range(BATCH - 1))]
        for plan in plans:
            _say(INTENT, plan)
        await self._door.several(plans)
        return BATCH


def weights(text):
    """What stands behind ``--weights``: KIND=WEIGHT, separated by commas."""
    return {kind: float(weight) for kind, _, weight in (item.partition("=") for item in text.split(",") if item)}


async def main(options):
    author = Author(options.name, options.seed, weights(options.weights))
    if options.naive:
        from tests.chaos.naive import NaiveDoor

        await Producer(NaiveDoor(), author, options.rate).run()
        return
    while True:
        with contextlib.suppress(RedisUnavailable):  # at the start Redis may be away
            async with StreamQ() as app:
                await Producer(Door(app), author, options.rate).run()
                return


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--name", required=True)
    arguments.add_argument("--seed", required=True)
    arguments.add_argument("--rate", type=float, required=True)
    arguments.add_argument("--weights", default="")
    arguments.add_argument("--naive", action="store_true")
    asyncio.run(main(arguments.parse_args()))
