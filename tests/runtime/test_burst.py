"""A burst ends when all queues are done at once, whatever they publish to each other."""

import asyncio
from types import SimpleNamespace

import pytest

from streamq.core.message import Delivery
from streamq.runtime.burst import Burst
from streamq.runtime.in_flight import InFlight
from streamq.runtime.lifecycle import Lifecycle
from tests.runtime.rig import soon, turns


class Queue:
    """A lane and a fetcher in one: each run does what the test wants, and returns when the queue is done."""

    def __init__(self, name):
        self.queue, self.in_flight, self.supervisor = name, InFlight(5), self
        self.runs, self.work = 0, []

    async def keep(self, name, run):
        assert name == "fetch"
        await run()

    async def run(self):
        self.runs += 1
        await asyncio.sleep(0)
        if self.work:
            self.work.pop(0)()
        await self.in_flight.empty()

    def handle(self, number=1):
        """Messages came, and are done."""
        for entry in range(number):
            delivery = Delivery(self.queue, "normal", f"{self.runs}-{entry}", {}, 1, 0)
            self.in_flight.take(delivery)
            self.in_flight.drop(delivery)


@pytest.fixture
def bench():
    def make(*names):
        queues, lifecycle = [Queue(name) for name in names], Lifecycle()
        burst = Burst(queues, lifecycle)
        everything = asyncio.gather(*(burst.keep(queue, queue) for queue in queues))
        return SimpleNamespace(queues=queues, lifecycle=lifecycle, everything=everything)

    return make


async def test_one_queue_that_is_done_is_the_end(bench):
    one = bench("a")
    await soon(one.everything)
    assert one.lifecycle.is_quiet
    assert one.queues[0].runs == 1


async def test_a_queue_that_is_done_waits_for_the_others(bench):
    both = bench("a", "b")
    gate = asyncio.Event()
    both.queues[1].run = gate.wait
    await turns()
    assert not both.lifecycle.is_quiet
    gate.set()
    await soon(both.everything)
    assert both.queues[0].runs == 1


async def test_work_on_one_makes_all_look_again(bench):
    """What it ran may have published to the others."""
    both = bench("a", "b")
    first, second = both.queues
    second.work = [second.handle]
    first.work = [lambda: None, first.handle]
    await soon(both.everything)
    assert (first.work, second.work) == ([], [])
    assert (first.runs, second.runs) == (2, 2)


async def test_a_queue_that_takes_something_over_meanwhile_is_not_done(bench):
    """The reclaimer works on its own."""
    both = bench("a", "b")
    first, second = both.queues
    orphan = Delivery("a", "normal", "9-9", {}, 1, 0)
    second.work = [lambda: first.in_flight.take(orphan)]
    await turns()
    assert not both.lifecycle.is_quiet
    first.in_flight.drop(orphan)
    await soon(both.everything)
    assert first.runs == 2


async def test_quiet_ends_it(bench):
    both = bench("a", "b")
    both.queues[1].run = both.lifecycle.until_quiet
    await turns()
    both.lifecycle.quiet()
    await soon(both.everything)


async def test_many_rounds_come_to_an_end(bench):
    three = bench("a", "b", "c")
    for queue in three.queues:
        queue.work = [queue.handle] * 5
    await soon(three.everything)
    assert all(queue.work == [] for queue in three.queues)
