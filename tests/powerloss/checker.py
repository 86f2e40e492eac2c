"""What must hold after the power came back, whatever was lost with it."""

import dataclasses
import json
from collections import Counter

import redis

from streamq.core.config import LEVELS
from streamq.store.keys import Keyspace
from streamq.store.streams import QueueStore
from tests.powerloss.load import CONFIG, QUEUE
from tests.support import paired, unpack_fields

KEYSPACE = Keyspace()
KEYS = KEYSPACE.queue(QUEUE)


@dataclasses.dataclass
class Found:
    """What lies in Redis: message id -> where, and the number in its payload."""

    places: dict[str, list[str]]
    numbers: dict[str, int]


def look(url):
    """Find every message, in every place where one may lie."""
    places, numbers = {}, {}

    def note(where, fields):
        message_id = fields[b"id"].decode()
        places.setdefault(message_id, []).append(where)
        numbers[message_id] = json.loads(fields[b"payload"])["n"]

    with redis.Redis.from_url(url) as client:
        for level in LEVELS:
            for _, fields in client.xrange(KEYS.stream(level)):
                note(level, fields)
        for member in client.zrange(KEYS.delayed, 0, -1):
            note("delayed", paired(unpack_fields(client.hget(KEYS.messages, member))))
        for _, fields in client.xrange(KEYSPACE.dead_letter):
            note("dead letters", fields)
    return Found(places, numbers)


def lost(history, found, published):
    """Messages that were published and are gone, though no handler ever came to a good end with them.

    Legal for a message that was confirmed: it lies in one place, whatever its worker did with it; or it is gone, and
    its handler had succeeded before the power went. That success may be forgotten (it lies there again), never made up.
    Either way its id is known: publishing it again adds nothing, which tells a settled message from a lost one.
    """
    return {message_id for message_id in published if message_id not in found.places} - history.succeeded


async def violations(connections, history, found):
    """What breaks the rules: the law of protocol 3.3, a message in two places, one that nobody published."""
    moment = await QueueStore(connections, KEYSPACE, QUEUE, CONFIG.queue(QUEUE).consumer_group).moment()
    wrong = []
    if moment.imbalance or moment.body_imbalance:
        wrong.append(f"imbalance {moment.imbalance:+}, bodies {moment.body_imbalance:+}")
    for level in LEVELS:
        added, ours = moment.levels[level].entries_added, moment.counters.get(f"added:{level}", 0)
        if added != ours:
            wrong.append(f"{level}: {added} entries were added, and {ours} are booked")
    lying = Counter(where for places in found.places.values() for where in places)
    if moment.counters.get("dead", 0) != lying["dead letters"]:
        wrong.append(f"{moment.counters.get('dead', 0)} died, and {lying['dead letters']} dead letters lie there")
    for message_id, places in found.places.items():
        if len(places) > 1:
            wrong.append(f"{message_id} lies in {' and '.join(places)}")
        if history.offered.get(message_id) != found.numbers[message_id]:
            wrong.append(f"{message_id} carries {found.numbers[message_id]}, which nobody published")
    return wrong


def is_empty(client):
    """Whether nothing is left to do."""
    return not client.zcard(KEYS.delayed) and not any(client.xlen(KEYS.stream(level)) for level in LEVELS)
