"""What lies in Redis at the end, by the key in each payload. Read with plain commands, and not with the product."""

import json
from collections import defaultdict
from typing import NamedTuple

import redis

from tests.chaos.story import QUEUES
from tests.support import paired, unpack_fields


class Letter(NamedTuple):
    """A dead letter."""

    key: str
    queue: str
    reason: str
    fields: dict


class Remains(NamedTuple):
    """The final state.

    Attributes:
        left: key -> where it still lies, in words.
        letters: all dead letters.
    """

    left: dict[str, list[str]]
    letters: list[Letter]


def read(url):
    """The final state of a server that streamq used."""
    left = defaultdict(list)
    with redis.Redis.from_url(url, socket_timeout=30) as client:
        for queue in QUEUES:
            for stream in (f"queue:{queue}", *(f"{{queue:{queue}}}:{level}" for level in ("critical", "high", "low"))):
                for entry, fields in client.xrange(stream):
                    holder = client.xpending_range(stream, "streamq", entry, entry, 1)
                    left[_key(fields)].append(f"{stream} {entry.decode()} {_words(fields)} pending {holder}")
            due = dict(client.zrange(f"{{queue:{queue}}}:delayed", 0, -1, withscores=True))
            for member, packed in client.hgetall(f"{{queue:{queue}}}:delayed:messages").items():
                fields = paired(unpack_fields(packed))
                left[_key(fields)].append(f"delayed of {queue}, due {due.get(member)}: {_words(fields)}")
        letters = [fields for _, fields in client.xrange("queue:dead_letter")]
    return Remains(dict(left), [_letter(fields) for fields in letters])


def _letter(fields):
    return Letter(_key(fields), fields[b"original_queue"].decode(), fields[b"reason"].decode(), _words(fields))


def _key(fields):
    try:
        return json.loads(fields[b"payload"])["key"]
    except (KeyError, ValueError, TypeError):
        return f"unreadable-{fields.get(b'id', b'?').decode(errors='replace')}"


def _words(fields):
    return {name.decode(): value.decode(errors="replace") for name, value in fields.items()}
