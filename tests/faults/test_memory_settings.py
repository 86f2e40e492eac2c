"""How a server is set up: what it may evict, what it keeps over a restart, and where a cut of its file ends."""

import asyncio
import contextlib

import pytest
import redis
import structlog

from streamq.core.errors import DurabilityUnconfirmed
from streamq.core.events import RedisUnavailable, Settled
from streamq.testing.server import PrivateServer
from tests.e2e.cli import Cli
from tests.faults.house import QUEUE, eventually, house_on, serving
from tests.faults.recording import handle_all
from tests.support import SERVERS, server_binary

pytestmark = pytest.mark.faults


async def told_at_the_start(house):
    """What a worker says of its server when it starts: level and text."""
    app = house.app()
    handle_all(app, [])
    with structlog.testing.capture_logs() as lines:
        async with serving(app):
            pass
    return [(line["log_level"], line["event"]) for line in lines if "fix" in line and "signed" not in line["event"]]


@pytest.mark.parametrize(
    ("policy", "level", "status"), [("allkeys-lru", "error", "fail"), ("volatile-lru", "warning", "warn")]
)
async def test_m05_a_server_that_may_evict_is_told_of(own_house, policy, level, status, tmp_path):
    """A worker says at its start, and the doctor whenever it is asked, that the server may delete whole queues."""
    with own_house.setting(maxmemory_policy=policy):
        ((said, text),) = await told_at_the_start(own_house)
        assert (said, text.partition(":")[0]) == (level, policy)
        assert await doctor(own_house, tmp_path, "eviction", code=int(status == "fail")) == [status]
    assert await told_at_the_start(own_house) == []


async def test_m05_a_queue_that_was_evicted_works_on(house):
    """Memory runs out under allkeys-random until the streams are gone: the worker tells of it and works on."""
    app, ran = house.app(), []
    handle_all(app, ran)
    used = int(house.raw("INFO", "memory").decode().partition("used_memory:")[2].split()[0])
    async with app, serving(app) as worker:
        await app.publish(QUEUE, {"type": "good", "key": "before"})
        await worker.events.until(Settled)

        def junk():
            with contextlib.suppress(redis.OutOfMemoryError):  # there was nothing left to evict
                for number in range(30):
                    house.raw("SET", f"junk:{number}", "x" * 50_000)
            return worker.events.of(RedisUnavailable, role="fetch")

        with house.setting(maxmemory=used + 1_000_000, maxmemory_policy="allkeys-random"):
            await eventually(junk)
        await worker.events.until(RedisUnavailable, role="fetch", back=True)
        await app.publish(QUEUE, {"type": "good", "key": "after"})
        await eventually(lambda: "after" in ran)
        moment = await house.moment()
        known = moment.counters.get("added:normal", 0) > moment.levels["normal"].entries_added
        assert moment.deleted_streams == (["normal"] if known else [])
    house.raw("FLUSHALL")  # what survived of the books says nothing


async def doctor(house, folder, check, code=0):
    """What the doctor thinks of one thing."""
    cli = Cli(house.server.url, folder)
    rows = await asyncio.to_thread(cli.json, "doctor", code=code)
    cli.close()
    return [row["status"] for row in rows if row["check"] == check]


async def test_m13_a_server_that_keeps_nothing_is_told_of(house, tmp_path):
    """A worker warns at its start, and the doctor whenever it is asked, where there is no append-only file."""
    ((level, text),) = await told_at_the_start(house)
    assert (level, "a restart of Redis may lose every message" in text) == ("warning", True)
    assert await doctor(house, tmp_path, "persistence") == ["warn"]


async def test_m13_a_server_that_keeps_all_is_not_warned_of(own_house, tmp_path):
    """With an append-only file a worker starts without a word about it, and the doctor is content."""
    assert await told_at_the_start(own_house) == []
    assert await doctor(own_house, tmp_path, "persistence") == ["ok"]


@pytest.mark.parametrize("kind", SERVERS)
async def test_m13_a_worker_goes_on_after_everything_was_lost(kind):
    """Without persistence a restart empties Redis: the worker makes its groups anew, and new messages are run."""
    with PrivateServer(server_binary(kind)) as server:
        async with house_on(server) as house:
            app, ran = house.app(), []
            handle_all(app, ran)
            async with app, serving(app) as worker:
                await app.publish(QUEUE, {"type": "good", "key": "before"})
                await worker.events.until(Settled)
                await asyncio.to_thread(server.restart)
                await worker.events.until(RedisUnavailable, role="fetch", back=True)
                await app.publish(QUEUE, {"type": "good", "key": "after"})
                await worker.events.until(Settled, 2)
            assert ran == ["before", "after"]
            assert house.books.ledger() == {"accepted": 1, "done": 1}


async def test_m15_a_confirmation_is_true_or_refused(own_house):
    """`durable: fsync` is confirmed where the server can confirm it, and is an error that names the reason where it has
    no WAITAOF; either way the message is accepted once, and may be published again under its id."""
    (known,) = own_house.raw("COMMAND", "INFO", "WAITAOF")
    async with own_house.app() as app:
        publishing = app.publish(QUEUE, {"type": "good"}, message_id="a", durable="fsync")
        if known:
            assert not (await publishing).duplicate
        else:
            with pytest.raises(DurabilityUnconfirmed, match="WAITAOF needs Redis") as refused:
                await publishing
            assert refused.value.id == "a"
        assert (await app.publish(QUEUE, {"type": "good"}, message_id="a")).duplicate
    assert own_house.books.ledger() == {"accepted": 1}


def cuts_of(log):
    """Places within the last script that made a dead letter at which the file may end, and the place after it."""
    letter = log.rindex(b"queue:dead_letter")
    begin = log.rindex(b"MULTI\r\n", 0, letter) + len(b"MULTI\r\n")
    end = log.index(b"EXEC\r\n", letter) + len(b"EXEC\r\n")
    return end, sorted({begin, letter, (letter + end) // 2, end - 30, end - 6, end - 1})


async def test_m12_a_torn_file_holds_a_script_whole_or_not_at_all(own_house):
    """Wherever within the effects of a script the append-only file ends, after a restart the message is pending as it
    was before; behind them it is a dead letter. Never both, never neither; and a worker brings it to its end."""
    house, server = own_house, own_house.server
    app = house.app(limits={"silent_after": 1.0})
    handle_all(app, [])
    async with app:
        await app.publish(QUEUE, {"type": "rejects", "key": "a"})
        await app.worker(burst=True).run()
    server.kill()
    (file,) = (server.directory / "appendonlydir").glob("*.incr.aof")
    log = file.read_bytes()
    end, inside = cuts_of(log)
    for cut in (end, *inside):
        server.kill()
        file.write_bytes(log[:cut])
        server.start()
        whole = cut == end
        assert (len(house.books.letters()), len(house.books.pending())) == (whole, not whole), cut
        assert house.books.ledger().get("dead", 0) == whole
        await house.check_law()
    house.raw("DEL", house.books.keys.workers)  # nobody has beaten lately: no time of grace
    ((holder, _),) = house.books.pending().values()
    house.raw("HSET", house.books.keys.workers, holder, 1)
    async with serving(app) as worker:
        await worker.events.until(Settled)
    assert [letter["reason"] for letter in house.books.letters()] == ["rejected"]
    assert house.books.is_empty()
