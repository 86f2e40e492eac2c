"""What a handler is told."""

import pytest

from streamq.core.context import Context, current_message
from streamq.core.message import Metadata
from streamq.core.receipt import Receipt
from tests.unit.builders import message


def context(published=None, **values):
    async def publish(queue, payload, **options):
        published.append((queue, payload, options))
        return Receipt("msg_2", queue)

    return Context(message(**values), deadline=9.5, state="state", log="log", publish=publish)


@pytest.mark.parametrize(("retry_count", "attempt"), [(0, 1), (3, 4)])
def test_what_it_knows(retry_count, attempt):
    """The first run is attempt 1, and what was handed in is there."""
    found = context(retry_count=retry_count)
    assert found.attempt == attempt
    assert (found.message.retry_count, found.deadline, found.state, found.log) == (retry_count, 9.5, "state", "log")


@pytest.mark.parametrize(
    ("own", "given", "carried"),
    [(None, {}, "msg_1"), ("case-7", {}, "case-7"), ("case-7", {"correlation_id": "case-8"}, "case-8")],
)
async def test_what_it_publishes_belongs_to_the_same_case(own, given, carried):
    """The correlation id goes on, the message's own id stands for an absent one, and the caller has the last word."""
    published = []
    found = context(published, metadata=Metadata(correlation_id=own))
    receipt = await found.publish("emails", {"type": "x"}, delay=5, **given)
    assert receipt == Receipt("msg_2", "emails", duplicate=False)
    assert published == [("emails", {"type": "x"}, {"delay": 5, "correlation_id": carried})]


def test_outside_of_a_handler_there_is_no_message():
    """A log line of code that runs for no message has no ids."""
    assert current_message.get() is None
