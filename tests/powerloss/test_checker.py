"""What the checker sees: each thing that must not be, made on purpose."""

import pytest
import redis

from streamq.core.message import Draft
from streamq.store.connection import connected
from streamq.store.streams import QueueStore
from streamq.store.url import parse_url
from tests.powerloss import checker
from tests.powerloss.load import QUEUE, History

HISTORY = History(offered={"a": 1, "b": 2}, confirmed={"a", "b"}, accepted=set(), succeeded=set())


def fields(message_id, number):
    return {"id": message_id, "queue": QUEUE, "priority": "3", "payload": f'{{"type":"good","n":{number}}}'}


@pytest.fixture
async def queue(empty_server):
    """Two messages, one of them delayed; everything is in order."""
    url = empty_server("valkey-9.1").url
    async with connected(parse_url(url)) as connections:
        drafts = [
            Draft(
                message_id,
                "normal",
                [x.encode() for pair in fields(message_id, n).items() for x in pair],
                delay,
                0,
                None,
            )
            for message_id, n, delay in (("a", 1, 0), ("b", 2, 10**6))
        ]
        store = QueueStore(connections, checker.KEYSPACE, QUEUE, "streamq")
        assert await store.publish(drafts, window_ms=300_000, max_length=0, once_ms=1000) == ["OK", "OK"]
        with redis.Redis.from_url(url) as client:

            async def verdict():
                found = checker.look(url)
                wrong = await checker.violations(connections, HISTORY, found)
                return checker.lost(HISTORY, found, HISTORY.confirmed), " ".join(wrong)

            assert await verdict() == (set(), "")
            yield client, verdict


async def test_a_message_that_is_gone(queue):
    client, verdict = queue
    client.delete(checker.KEYS.delayed, checker.KEYS.messages)
    lost, wrong = await verdict()
    assert lost == {"b"}
    assert "imbalance +1" in wrong


async def test_a_message_in_two_places(queue):
    client, verdict = queue
    client.xadd(checker.KEYSPACE.dead_letter, fields("a", 1))
    assert "a lies in normal and dead letters" in (await verdict())[1]
    assert "0 died, and 1 dead letters lie there" in (await verdict())[1]


async def test_a_message_of_nobody(queue):
    client, verdict = queue
    client.xadd(checker.KEYS.normal, fields("c", 3))
    wrong = (await verdict())[1]
    assert "c carries 3, which nobody published" in wrong
    assert "normal: 2 entries were added, and 1 are booked" in wrong


async def test_a_settled_message_may_be_gone(queue):
    client, verdict = queue
    client.xtrim(checker.KEYS.normal, maxlen=0)
    assert (await verdict())[0] == {"a"}
    HISTORY.succeeded.add("a")
    try:
        assert (await verdict())[0] == set()
    finally:
        HISTORY.succeeded.clear()
