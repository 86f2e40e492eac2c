"""Dead letters where queues and the common stream lie on different slots: two steps, and a crash between them."""

import pytest
import redis

from streamq.core.config import Config
from streamq.core.errors import RedisUnavailable
from streamq.core.signing import KeyRing
from streamq.store import across
from streamq.store.audit import Auditor
from streamq.store.connection import Connections
from streamq.store.dead_letters import DeadLetter, DeadLetters, Filter
from streamq.store.inspect import Inspector
from streamq.store.keys import Keyspace
from streamq.store.server import Server
from streamq.store.url import parse_url
from streamq.testing.server import PrivateServer
from tests.contract.test_dead_letters import PAIR
from tests.servers.ports import bus_port, free_port
from tests.support import pack_fields, server_binary, wait_until

LETTER = {
    "id": "m1", "queue": "mail", "priority": "2", "payload": '{"type":"t"}', "original_queue": "mail",
    "original_id": "m1", "reason": "rejected", "failed_at": "1763807000000",
}  # fmt: skip


@pytest.fixture(scope="session")
def node():
    """A Cluster of one node that has every slot: commands over two slots are refused there as anywhere."""
    port = free_port()
    args = f"--port {port} --bind 127.0.0.1 --cluster-enabled yes --cluster-announce-ip 127.0.0.1"
    args += f" --cluster-port {bus_port(port)}"
    with PrivateServer(server_binary("valkey-9.1"), args=args.split()):
        client = redis.Redis(port=port)
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
        yield client, f"redis+cluster://127.0.0.1:{port}"
        client.close()


@pytest.fixture
async def office(node):
    client, url = node
    client.flushall()
    connections = Connections(parse_url(url))
    office = Office(client, connections)
    yield office
    await office.check_books()
    await connections.aclose()


class Office:
    def __init__(self, raw, connections):
        self.raw, self.connections = raw, connections
        self.keyspace = Keyspace(clustered=True)
        self.letters = DeadLetters(connections, self.keyspace, KeyRing())
        self.inspector = Inspector(connections, self.keyspace, Config())
        self.auditor = Auditor(connections, self.keyspace, self.inspector)

    def bury(self, queue="mail", **more):
        """As the script of a worker does in a Cluster: into the queue's own slot."""
        self.raw.sadd("queue:names", queue)
        self.raw.hincrby(f"{{queue:{queue}}}:ledger", "accepted", 1)
        self.raw.hincrby(f"{{queue:{queue}}}:ledger", "dead", 1)
        fields = {**LETTER, "queue": queue, "original_queue": queue, **more}
        return self.raw.xadd(f"{{queue:{queue}}}:dead", {name: value for name, value in fields.items() if value})

    async def list(self):
        return [letter async for letter in self.letters.list()]

    async def check_books(self):
        assert (await self.auditor.dead_letters()).imbalance == 0
        for name in await self.inspector.names():
            assert (await self.auditor.queue(name)).imbalance == 0


async def test_letters_on_their_way_are_counted_where_they_lie(office):
    office.bury()
    office.bury("video")
    assert await office.inspector.dead_by_queue() == {"mail": 1, "video": 1}
    assert (await office.auditor.dead_letters()).length == 2


async def test_a_look_brings_all_letters_together(office):
    """However many, the oldest of a queue first, each once."""
    for n in range(across.PAGE + 1):
        office.bury(original_id=f"m{n}")
    office.bury("video")
    found = await office.list()
    ours = [letter.text("original_id") for letter in found if letter.queue == "mail"]
    assert ours == [f"m{n}" for n in range(across.PAGE + 1)]
    assert office.raw.xlen("{queue:mail}:dead") == office.raw.xlen("{queue:video}:dead") == 0
    assert len(await office.list()) == across.PAGE + 2


async def test_a_crash_between_the_steps_of_a_move_doubles_nothing(office):
    """The letter has arrived and not yet left."""
    entry = office.bury()
    fields = office.raw.xrange("{queue:mail}:dead")[0][1]
    assert await across.move(office.connections, office.keyspace, "mail") == 1
    office.raw.xadd("{queue:mail}:dead", fields, id=f"{int(entry.split(b'-')[0]) + 1}-0")
    office.raw.rename(
        f"{{queue:dead_letter}}:moved:mail/{entry.decode()}/m1",
        f"{{queue:dead_letter}}:moved:mail/{int(entry.split(b'-')[0]) + 1}-0/m1",
    )
    assert len(await office.list()) == 1
    assert office.raw.xlen("{queue:mail}:dead") == 0


async def test_a_letter_goes_back_to_its_level_in_the_same_bytes(office):
    office.bury()
    letters = await office.list()
    assert await office.letters.replay(letters) == {"OK": 1}
    ((_, fields),) = office.raw.xrange("{queue:mail}:high")
    signed = {name.encode(): LETTER[name].encode() for name in ("id", "queue", "priority", "payload")}
    assert fields == signed | {b"retry_count": b"0"}
    assert await office.letters.replay(letters) == {"GONE": 1}
    assert await office.list() == []


async def test_a_crash_between_the_steps_of_a_replay_doubles_nothing(office):
    """The message is back and its letter still there: a purge leaves it alone, the next replay takes it away."""
    office.bury()
    (letter,) = await office.list()
    await office.letters.replay([letter])
    office.raw.xadd("queue:dead_letter", letter.fields, id=_after(letter.dlq_id))
    (again,) = await office.list()
    office.raw.rename(office.keyspace.replayed("mail", letter.dlq_id), office.keyspace.replayed("mail", again.dlq_id))
    assert await office.letters.purge([again]) == 0
    assert await office.letters.replay([again]) == {"OK": 1}
    assert office.raw.xlen("{queue:mail}:high") == 1


async def test_a_letter_that_nobody_knows_is_gone(office):
    office.raw.sadd("queue:names", "mail")
    letter = DeadLetter("1-1", {name.encode(): value.encode() for name, value in LETTER.items()})
    assert await office.letters.replay([letter]) == {"GONE": 1}
    assert office.raw.xlen("{queue:mail}:high") == 0


async def test_a_letter_that_cannot_arrive_is_not_marked(office):
    """A mark without its letter would let the next try take the letter away from where it still lies."""
    office.bury()
    (letter,) = await office.list()
    _use_up(office, "{queue:mail}:high")
    with pytest.raises(RedisUnavailable):
        await office.letters.replay([letter])
    office.raw.delete("{queue:mail}:high")
    assert await office.letters.replay([letter]) == {"OK": 1}
    assert office.raw.xlen("{queue:mail}:high") == 1
    office.bury()
    _use_up(office, "queue:dead_letter")
    with pytest.raises(RedisUnavailable):
        await across.move(office.connections, office.keyspace, "mail")
    office.raw.delete("queue:dead_letter")
    assert await across.move(office.connections, office.keyspace, "mail") == 1
    assert office.raw.xlen("queue:dead_letter") == 1


async def test_a_letter_is_purged(office):
    office.bury()
    letters = await office.list()
    assert await office.letters.purge(letters) == 1
    assert await office.letters.replay(letters) == {"GONE": 1}
    assert await office.list() == []


async def test_what_is_unreadable_goes_back_as_it_was_when_it_is_forced_to(office):
    """A field that was given twice, for instance; but not what cannot be unpacked."""
    flat = [b"payload", b"{}", b"payload", b"{}"]
    office.bury(payload="", original_id="m1", raw=pack_fields(flat))
    office.bury(payload="", raw="6:broken,")
    office.bury(payload="")
    office.bury(original_id="", id="")
    letters = await office.list()
    assert await office.letters.replay(letters) == {"RAW": 4}
    assert await office.letters.replay(letters, force=True) == {"OK": 1, "RAW": 3}
    with redis.Redis(port=office.raw.connection_pool.connection_kwargs["port"], protocol=2) as plain:
        plain.response_callbacks.clear()
        ((_, found),) = plain.execute_command("XRANGE", "queue:mail", "-", "+")
    assert found == flat


@pytest.mark.parametrize(
    ("raw", "word"), [(b"1:a,", "RAW"), (PAIR * 3500, "OK"), (PAIR * 3501, "RAW")], ids=["odd", "most", "too many"]
)
async def test_what_is_no_entry_does_not_go_back(office, raw, word):
    office.bury(payload="", raw=raw)
    assert await office.letters.replay(await office.list(), force=True) == {word: 1}
    assert office.raw.xlen("queue:dead_letter") == (word == "RAW")


async def test_what_somebody_decided_to_purge_does_not_come_back(office):
    """A purge that crashed after its first step: the letter is still there, and only another purge takes it."""
    office.bury()
    (letter,) = await office.list()
    assert await across.may_purge(office.connections, office.keyspace, "mail", letter.dlq_id)
    assert await office.letters.replay([letter]) == {"GONE": 1}
    assert office.raw.xlen("{queue:mail}:high") == 0
    assert await office.letters.purge([letter]) == 1


async def test_who_may_only_look_still_sees_what_has_arrived(office, node):
    """Moving is a write: without the right to it, what is on its way is not shown."""
    _, url = node
    office.bury()
    await office.list()
    office.bury("video")
    rights = "on >look ~queue:* ~{queue:* -@all +@read +@connection +time +cluster|slots +cluster|shards"
    office.raw.execute_command("ACL", "SETUSER", "viewer", *rights.split(" "))
    viewer = Connections(parse_url(url.replace("//", "//viewer:look@")))
    letters = DeadLetters(viewer, office.keyspace, KeyRing())
    try:
        assert [letter.queue async for letter in letters.list()] == ["mail"]
        with pytest.raises(RedisUnavailable):
            await letters.purge([letter async for letter in letters.list(Filter(queue="mail"))])
    finally:
        await viewer.aclose()
        office.raw.execute_command("ACL", "DELUSER", "viewer")


async def test_the_clock_and_the_rights_of_a_cluster_can_be_asked(office):
    server = Server(office.connections, office.keyspace)
    assert abs(await server.clock_offset()) < 1
    assert await server.refused("mail") == []
    assert (await server.facts()).info["cluster_enabled"] == 1


def _use_up(office, stream):
    """Somebody adds an entry with the last id there is."""
    office.raw.xadd(stream, {"payload": "{}"}, id="18446744073709551615-18446744073709551615")


def _after(entry):
    ms, number = entry.split("-")
    return f"{ms}-{int(number) + 1}"
