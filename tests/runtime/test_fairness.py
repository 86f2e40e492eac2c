"""What is due to one role is not taken away by another."""

import asyncio

from streamq.core.outcome import Ack, DeadLetter, Reason
from streamq.runtime.reclaimer import Reclaimer
from streamq.runtime.settler import Settler, Verdict
from streamq.store.outages import RedisRefused
from tests.runtime.rig import OTHER, soon, turns, until


async def test_under_a_backlog_the_next_free_slot_is_for_a_reclaim(make_rig):
    """A fetch would take every slot that becomes free, and orphans would wait for as long as there is work."""
    rig = await make_rig(slots=1)
    (busy,) = await rig.deliver("busy")
    rig.lane.in_flight.take(busy)
    rig.age(await rig.deliver_one("orphan", consumer=OTHER))
    rig.beaten(OTHER, 13_000)
    started = []
    reclaimer = Reclaimer(rig.lane, start=started.append)
    role = asyncio.ensure_future(reclaimer.run())
    reclaimer.hint([OTHER])
    await until(lambda: rig.lane.in_flight.claimed)
    rig.lane.in_flight.drop(busy)
    assert (rig.lane.in_flight.free, rig.lane.in_flight.fetchable) == (1, 0)
    await until(lambda: started)
    assert started[0].message_id == "orphan"
    rig.lifecycle.quiet()
    rig.lane.in_flight.poke()
    await soon(role)


async def test_a_dead_letter_that_redis_refuses_does_not_hold_up_acknowledgements(make_rig, monkeypatch):
    """Each kind of outcome goes its own way."""
    rig = await make_rig(slots=3)
    bad, good = await rig.deliver("bad", "good")
    settled = []

    async def refused(*_, **__):
        raise RedisRefused("WRONGTYPE")

    monkeypatch.setattr(rig.store, "dead", refused)
    settler = Settler(rig.lane, settled.append)
    role = asyncio.ensure_future(settler.run())
    settler.put(Verdict(bad, DeadLetter(Reason.REJECTED)))
    await turns()
    settler.put(Verdict(good, Ack()))
    await until(lambda: settled)
    assert settled == [good]
    assert "bad" in rig.pending()
    role.cancel()
    await asyncio.wait([role])
