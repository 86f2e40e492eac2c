"""What the server is and what it lets us do: the questions of `streamq doctor`."""

import pytest
import redis

from streamq.store.connection import connected
from streamq.store.keys import Keyspace
from streamq.store.server import Server
from streamq.store.url import parse_url
from tests.contract.desk import GROUP

RULES = ("reset", "on", ">secret", "~*", "+@all")


@pytest.fixture
def facts(desk):
    return Server(desk.connections, desk.keyspace)


async def test_a_server_says_what_it_is(desk, facts):
    """INFO and the settings that matter, without changing anything."""
    before = desk.state_of_keys()
    found = await facts.facts()
    assert found.refused == []
    assert found.info["redis_version"]
    assert found.settings == {
        "maxmemory-policy": "noeviction", "maxmemory": "0", "appendonly": "no", "appendfsync": "everysec", "save": "",
        "timeout": "0", "min-replicas-to-write": "0",
    }  # fmt: skip
    assert 0 < await facts.latency() < 5
    assert abs(await facts.clock_offset()) < 5
    assert facts.timeouts() == (5.0, 4.0, 2.0)
    assert desk.state_of_keys() == before


async def test_a_worker_may_do_all_that_it_needs(desk, facts):
    """Asked for a user who may do everything: nothing is refused, and nothing of it was done."""
    before = desk.state_of_keys()
    assert await facts.refused("orders") == []
    assert desk.state_of_keys() == before


async def test_keys_of_others_and_groups_are_named(desk, facts):
    assert await facts.wrong_types("orders") == {}
    assert await facts.groups("orders") == {stream: [GROUP] for stream in desk.keys.streams}
    desk.raw("FLUSHALL")
    desk.raw("SET", desk.keys.delayed, "x")
    desk.raw("XGROUP", "CREATE", desk.keys.low, "b", "0", "MKSTREAM")
    desk.raw("XGROUP", "CREATE", desk.keys.low, "a", "0")
    assert await facts.wrong_types("orders") == {desk.keys.delayed: ("string", "zset")}
    assert await facts.groups("orders") == {desk.keys.low: ["a", "b"]}
    desk.raw("DEL", desk.keys.delayed)


async def test_streams_that_take_no_more_are_named(desk, facts):
    assert await facts.exhausted("orders") == []
    desk.raw("DEL", desk.keys.high)
    desk.raw("XADD", desk.keys.low, "18446744073709551615-18446744073709551615", "f", "v")
    assert await facts.exhausted("orders") == [desk.keys.low]


@pytest.mark.parametrize(
    ("taken", "refused"),
    [
        (["-xdel"], ["XDEL"]), (["-xinfo|groups", "-client|unblock"], ["XINFO GROUPS", "CLIENT UNBLOCK"]),
        (["-info", "-config"], []), (["resetkeys", "~queue:*", "~{queue:*"], []),
    ],
)  # fmt: skip
async def test_missing_rights_are_named(server, taken, refused):
    """By command, for the keys in question; also the right to look at the server itself."""
    with redis.Redis.from_url(server.url) as client:
        client.execute_command("ACL", "SETUSER", "weak", *RULES, *taken)
    try:
        async with connected(parse_url(server.url.replace("unix://", "unix://weak:secret@"))) as connections:
            facts = Server(connections, Keyspace())
            assert await facts.refused("orders") == refused
            found = await facts.facts()
            assert bool(found.refused) == ("-info" in taken)
            assert bool(found.info) == ("-info" not in taken)
    finally:
        with redis.Redis.from_url(server.url) as client:
            client.execute_command("ACL", "DELUSER", "weak")
