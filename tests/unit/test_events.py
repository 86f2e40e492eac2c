"""Who is told of what."""

import pytest

from streamq.core.events import Event, Fetched, LeaseLost, Noticed, Observers, RedisUnavailable

RARE, ROUTINE = LeaseLost("q", "msg_1"), Fetched("q", 3)


def test_nobody_is_told_of_nothing():
    """Without an observer the tuple that the hot path asks for is empty, and telling is harmless."""
    observers = Observers()
    assert not observers.routine
    observers.notify(RARE)
    observers.notify_routine(ROUTINE)


def test_everybody_in_order():
    """All observers hear of what is rare, in the order in which they came; of every message only those who asked."""
    told = []
    observers = Observers()
    observers.add(lambda event: told.append(("all", event)))
    observers.add(lambda event: told.append(("rare", event)), routine=False)
    observers.add(lambda event: told.append(("all too", event)), routine=True)
    assert len(observers.routine) == 2
    observers.notify(RARE)
    observers.notify_routine(ROUTINE)
    assert told == [("all", RARE), ("rare", RARE), ("all too", RARE), ("all", ROUTINE), ("all too", ROUTINE)]


def test_an_observer_of_what_is_rare_makes_nothing_routine():
    """One that wants only what is rare costs nothing per message."""
    observers = Observers()
    observers.add(lambda event: None, routine=False)
    assert not observers.routine


@pytest.mark.parametrize("kind", [Event, *Event.__subclasses__()], ids=lambda kind: kind.__name__)
def test_events_are_values(kind):
    """An event cannot be changed by one observer before the next sees it."""
    assert kind.__struct_config__.frozen
    with pytest.raises(AttributeError):
        RARE.message_id = "other"


def test_what_an_event_need_not_say():
    """Most outages are not over, and most notices are about no single message."""
    assert RedisUnavailable("q", "fetcher", "x", 2) == RedisUnavailable("q", "fetcher", "x", 2, back=False)
    assert Noticed("q", "look") == Noticed("q", "look", message_id=None)
