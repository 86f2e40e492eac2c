"""One of everything that streamq does on a queue, and every command that Redis got meanwhile."""

import asyncio
import re
import socket
import threading
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import unquote

import pytest

from streamq import Drop, QueueFull, Reject, Retry, Snooze
from streamq.core.config import LEVELS
from streamq.core.events import Reclaimed, Settled
from streamq.store.dead_letters import Filter
from streamq.store.scripts import script
from tests.faults.house import GROUP, QUEUE, House, eventually, house_on, serving
from tests.runtime.rig import OTHER, fields

SCRIPTS = [
    "ack", "alone", "audit", "cancel", "dead", "ensure", "evict", "extend", "janitor", "promote", "publish", "purge",
    "reclaim", "release", "replay", "retry", "tally",
]  # fmt: skip
OF_THE_TEST = "-- of the test"  # how a script begins that is no part of a recording
END = "the end of the recording"

_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"')


class Sent(NamedTuple):
    """One command as Redis got it.

    Attributes:
        words: of the command.
        script: the EVALSHA or EVAL inside of which it ran; None for what was sent as it is.
    """

    words: list[str]
    script: list[str] | None

    @property
    def name(self):
        return self.words[0].upper()

    @property
    def options(self):
        """Its words in capitals, without the name."""
        return [word.upper() for word in self.words[1:]]


class Recording(list):
    """Commands, in their order."""

    def of(self, name):
        return [sent for sent in self if sent.name == name]


@contextmanager
def recording(house):
    """Record what the server gets, but for what the test sends past streamq."""
    found = Recording()
    with socket.socket(socket.AF_UNIX) as line, line.makefile("r", encoding="latin-1", newline="\r\n") as lines:
        line.connect(unquote(house.server.url.removeprefix("unix://")))
        line.sendall(b"MONITOR\r\n")
        assert lines.readline() == "+OK\r\n"
        thread = threading.Thread(target=_read, args=(lines, found), daemon=True)
        thread.start()
        try:
            yield found
        finally:
            house.raw("ECHO", END)
            thread.join(10)
            assert not thread.is_alive()


def _read(lines, found):
    running = None
    for line in lines:
        words = _WORD.findall(line)
        if words[-1] == END:
            return
        inside = " lua] " in line.partition('"')[0]
        if not inside:
            running = words if words[0].upper() in {"EVAL", "EVALSHA"} else None
        if running is None or not running[1].startswith(OF_THE_TEST):
            found.append(Sent(words, running if inside else None))


def handle_all(app, ran, *, held=None):
    """A handler of each fate.

    Args:
        app: where.
        ran: gets the key of whatever came to a good end.
        held: gets the key of whatever will never come to an end.
    """
    _handle_well(app, ran)

    @app.handler(QUEUE)
    async def rejects(key: str):
        raise Reject("no")

    @app.handler(QUEUE, max_retries=0)
    async def fails(key: str):
        raise RuntimeError("boom")

    @app.handler(QUEUE)
    async def drops(key: str):
        raise Drop("not needed")

    @app.handler(QUEUE)
    async def holds(key: str):
        held.append(key)
        await asyncio.Event().wait()


def _handle_well(app, ran):
    again = set()

    def first_time(key):
        return not (key in again or again.add(key))

    @app.handler(QUEUE)
    async def good(key: str):
        ran.append(key)

    @app.handler(QUEUE)
    async def retries(key: str):
        if first_time(key):
            raise Retry(after=0.01)
        ran.append(key)

    @app.handler(QUEUE)
    async def snoozes(key: str):
        if first_time(key):
            raise Snooze(after=0.01)
        ran.append(key)


def offer(kind, *keys):
    return [{"type": kind, "key": key} for key in keys]


def orphan(house, name, *, level="low", kind="good", consumer=OTHER, **more):
    """An entry in the hands of a worker that has not beaten for long, with all else on its level that nobody has. In
    one step, or a reader that waits would be faster."""
    house.raw("HSET", house.books.keys.workers, consumer, house.books.now_ms() - 3_600_000)
    entry = fields(name, level=level, payload=f'{{"type":"{kind}","key":"{name}"}}', **more)
    text = f"""{OF_THE_TEST}
        redis.call('XADD', KEYS[1], '*', unpack(ARGV, 3))
        redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'STREAMS', KEYS[1], '>')"""
    house.raw("EVAL", text, 1, house.books.keys.stream(level), GROUP, consumer, *entry)


async def live(house: House):
    """Publish, run, fail, retry, wait, die, come back: every script but those of a Cluster runs at least once."""
    ran, held = [], []
    app = house.app(limits={"silent_after": 1.0})
    handle_all(app, ran, held=held)
    async with app:
        for level in LEVELS:
            await app.publish(QUEUE, {"type": "good", "key": level}, priority=level)
        for _ in range(2):
            await app.publish(QUEUE, {"type": "good", "key": "once"}, idempotency_key="once")
        await app.publish_many(QUEUE, offer("good", *(f"many{n}" for n in range(30))))
        await app.publish_many(QUEUE, offer("good", "soon"), delay=0.05)
        late = await app.publish(QUEUE, {"type": "good", "key": "late"}, delay=3600)
        for kind in ("retries", "snoozes", "rejects", "fails", "drops", "unknown"):
            await app.publish(QUEUE, {"type": kind, "key": kind})
        async with serving(app, drain_timeout=0.05) as worker:
            await eventually(lambda: "low" in ran)
            orphan(house, "orphan")
            orphan(house, "suspect", deliveries=1)
            await worker.events.until(Reclaimed, suspects=1)
            await eventually(lambda: {"suspect", "orphan", "soon", "retries", "snoozes"} <= set(ran))
            await app.publish(QUEUE, {"type": "holds", "key": "held"})
            await eventually(lambda: held)
            await worker.events.until(Settled)
        await manage(house, app, late)
    await overflow(house)


async def manage(house, app, late):
    """What an operator does: look, cancel, replay, purge."""
    store = app.session.inspector.store(QUEUE)
    assert await store.cancel([late.id]) == ["OK"]
    await app.session.inspector.stats([QUEUE])
    await app.session.inspector.workers(QUEUE)
    await house.audit()
    fates = [fate async for fate in app.dead_letters.replay_matching(Filter(reason="rejected"), force=True)]
    assert len(fates) == 1
    assert await app.dead_letters.purge_matching(Filter(reason="max_retries")) == 1


async def overflow(house):
    """A full queue that refuses, and one that lets the oldest go."""
    moment = await house.moment()
    limit = moment.length + moment.delayed
    async with house.app(max_length=limit) as app:
        with pytest.raises(QueueFull):
            await app.publish(QUEUE, {"type": "good", "key": "refused"})
    async with house.app(max_length=limit, on_full="drop_oldest") as app:
        await app.publish(QUEUE, {"type": "good", "key": "newest"})


async def record_life(server):
    """All that Redis gets of a whole life."""
    async with house_on(server) as house:
        with recording(house) as found:
            await live(house)
    return found


def declared_keys(call):
    """The keys that an EVAL or EVALSHA names."""
    return call[3 : 3 + int(call[2])]


def scripts_of(found):
    """The names of the scripts that ran."""
    name_of = {script(name).sha: name for name in SCRIPTS} | {script("dead", allow_oom=True).sha: "dead"}
    return {name_of[sent.words[1]] for sent in found.of("EVALSHA") if sent.words[1] in name_of}
