"""What a worker holds: a slot for each delivery, promised before it is read and freed when Redis has the outcome."""

import asyncio

import pytest

from streamq.core.message import Delivery
from streamq.runtime.in_flight import InFlight
from tests.runtime.rig import soon, turns


def delivery(entry="1-1", level="normal", token=1):
    return Delivery("orders", level, entry, {}, token, 0)


def test_free_is_what_is_neither_held_nor_promised():
    """A slot that a read may fill is not free for another read."""
    held = InFlight(3)
    held.take(delivery())
    with held.reserve(1) as room:
        assert (room, held.free, len(held)) == (1, 1, 1)
    assert held.free == 2


def test_no_more_is_promised_than_is_free():
    """Two reads at once together never get more slots than there are."""
    held = InFlight(3)
    with held.reserve(2) as first, held.reserve(5) as second, held.reserve(5) as third:
        assert (first, second, third) == (2, 1, 0)


def test_a_slot_that_is_claimed_is_not_for_fetches():
    """Under a backlog they would take every one, and orphans would wait for ever."""
    held = InFlight(2)
    assert (held.free, held.fetchable) == (2, 2)
    held.claimed = True
    assert (held.free, held.fetchable) == (2, 1)


def test_nothing_is_promised_when_more_is_held_than_there_are_slots():
    """An entry that came without a promise still counts; the promise is never negative."""
    held = InFlight(1)
    held.take(delivery("1-1"))
    held.take(delivery("1-2"))
    with held.reserve(5) as room:
        assert room == 0


def test_a_promise_ends_with_a_read_that_fails():
    held = InFlight(2)
    with pytest.raises(OSError, match="gone"), held.reserve(2):
        raise OSError("gone")
    assert held.free == 2


def test_what_comes_back_while_it_runs_here_replaces_its_token_and_starts_nothing():
    """The running handler settles under the new token, and is not lost any more."""
    held, running = InFlight(2), delivery(token=1)
    running.lost = True
    assert held.take(running)
    assert not held.take(delivery(token=2))
    assert held.deliveries() == [running]
    assert (running.token, running.lost) == (2, False)


def test_levels_are_apart():
    """Entry ids are unique in one stream only."""
    held = InFlight(2)
    assert held.take(delivery(level="high"))
    assert held.take(delivery(level="low"))


def test_dropping_another_delivery_of_the_same_entry_frees_nothing():
    """The slot belongs to the delivery that runs."""
    held, running = InFlight(1), delivery()
    held.take(running)
    held.drop(delivery())
    assert held.deliveries() == [running]
    held.drop(running)
    held.drop(running)
    assert held.free == 1


def test_the_list_is_a_copy():
    """The beat reads it from another thread while the loop changes it."""
    held = InFlight(1)
    held.take(delivery())
    copy = held.deliveries()
    held.drop(copy[0])
    assert len(copy) == 1


@pytest.mark.parametrize("change", ["drop", "promise ends", "poke"])
async def test_a_wait_for_a_change_ends_with_any_change(change):
    held, running = InFlight(1), delivery()
    held.take(running)
    wait = asyncio.ensure_future(held.changed())
    await turns()
    assert not wait.done()
    if change == "drop":
        held.drop(running)
    elif change == "poke":
        held.poke()
    else:
        with held.reserve(1):
            pass
    await soon(wait)


async def test_empty_waits_for_the_last_delivery():
    held, first, second = InFlight(2), delivery("1-1"), delivery("1-2")
    held.take(first)
    held.take(second)
    wait = asyncio.ensure_future(held.empty())
    await turns()
    held.drop(first)
    held.poke()
    await turns()
    assert not wait.done()
    held.drop(second)
    await soon(wait)
