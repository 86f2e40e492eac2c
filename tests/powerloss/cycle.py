"""One power loss: load, cut, look, drain."""

import asyncio
import contextlib
import dataclasses
from unittest import mock

import redis

from streamq.store import durability
from streamq.store.connection import connected
from streamq.store.url import parse_url
from tests.powerloss import checker
from tests.powerloss.disk import Disk
from tests.powerloss.load import History, Load


@dataclasses.dataclass
class Tally:
    """What happened in some cycles; `wrong` tells of each violation."""

    cycles: int = 0
    confirmed: int = 0
    unconfirmed: int = 0
    cut_bytes: int = 0
    unconfirmed_lost: int = 0
    confirmed_lost: int = 0
    wrong: list[str] = dataclasses.field(default_factory=list)

    def add(self, other):
        """Take another tally in."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


async def cycle(binary, policy, random, *, forgetful=False, believe=False):
    """Run one.

    Args:
        binary: the server.
        policy: its appendfsync.
        random: decides whatever is decided here.
        forgetful: the disk keeps nothing, to see that it is seen.
        believe: take the server's word where streamq does not.
    """
    disk, history = Disk(binary, policy), History()
    trust = mock.patch.object(durability, "everysec_is_true", return_value=True)
    try:
        with trust if believe else contextlib.nullcontext():
            disk.server.start()
            load = Load(disk.server.url, history, random, disk.confirm)
            await load.run(disk.server.kill)
            inside = not (forgetful or believe) and random.random() < 0.5
            gone = disk.cut(random, inside=inside, worst=believe, forgetful=forgetful)
            await asyncio.to_thread(disk.server.start)
            tally = await _verdict(disk.server.url, history, random)
            tally.cut_bytes = gone
            return tally
    finally:
        disk.close()


async def _verdict(url, history, random):
    found = checker.look(url)
    lost = checker.lost(history, found, history.confirmed)
    tally = Tally(
        cycles=1,
        confirmed=len(history.confirmed),
        unconfirmed=len(history.accepted),
        unconfirmed_lost=len(checker.lost(history, found, history.accepted)),
        confirmed_lost=len(lost),
    )
    async with connected(parse_url(url)) as connections:
        tally.wrong += await checker.violations(connections, history, found)
        load = Load(url, history, random)
        tally.confirmed_lost += await load.repeat(sorted(history.confirmed - lost))
        with redis.Redis.from_url(url) as client:
            await load.drain(lambda: checker.is_empty(client))
        end = checker.look(url)
        tally.wrong += await checker.violations(connections, history, end)
        stuck = checker.lost(history, end, found.places.keys())
        if stuck:
            tally.wrong.append(f"{len(stuck)} messages were there and came to no end")
    return tally
