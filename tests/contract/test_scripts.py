"""What holds for every script: its header, being sent twice, keys of a wrong type, a group that is gone."""

import hashlib
import re
from functools import partial
from importlib.resources import files
from pathlib import Path

import pytest

from streamq.core.errors import ConfigError
from streamq.core.outcome import DeadLetter, Reason, Retry, Wait
from streamq.store.keys import QueueKeys
from streamq.store.outages import GroupMissing, RedisRefused
from streamq.store.scripts import Script, script
from tests.contract.desk import FAR, GROUP, NOT_ON_THE_FAKE, draft, fields

FOLDER = files("streamq.store") / "lua"
NAMES = sorted(file.name.removesuffix(".lua") for file in FOLDER.iterdir() if file.name.endswith(".lua"))
DIAGNOSTICS = {"fenced", "late_ack", "promoted"}
LETTER = DeadLetter(Reason.REJECTED, "no")

# --- the loader


@pytest.mark.parametrize("name", NAMES)
def test_a_script_names_keys_that_there_are(name):
    """A key that the header misspells would only be missed when the script is called."""
    built = script(name)
    assert built.keys or name == "rights"
    known = {*QueueKeys.__slots__, "stream", "dead_letter", "moved", "names"}
    assert set(built.keys) <= known
    assert script(name) is built


@pytest.mark.parametrize("name", NAMES)
def test_a_script_says_what_memory_it_needs(name):
    """What drains a queue runs without memory; what fills it does not; what only looks writes nothing."""
    fills = {"publish", "dead", "replay_across"}
    looks = {"audit", "tally", "rights"}
    flags = script(name).text.partition("\n")[0]
    assert flags == "#!lua" + (" flags=no-writes" * (name in looks) or " flags=allow-oom" * (name not in fills))


def test_a_script_may_run_without_memory_whatever_its_file_says():
    """Another text, another digest: the server must not take one for the other."""
    plain, insistent = script("dead"), script("dead", allow_oom=True)
    assert insistent.text == plain.text.replace("#!lua\n", "#!lua flags=allow-oom\n", 1)
    assert insistent.sha != plain.sha
    assert insistent.sha == hashlib.sha1(insistent.text.encode()).hexdigest()


def test_what_a_script_includes_stands_before_it():
    text = script("retry").text
    positions = [text.index(f"local function {name}(") for name in ("now_ms", "expect", "read_fields", "owned")]
    assert positions == sorted(positions)
    assert "-- include" not in text


@pytest.mark.parametrize(
    "source",
    [
        "return 1",
        "#!lua\nreturn 1",
        "#!lua\n-- Does.\nreturn 1",
        "-- KEYS: low\n#!lua\nreturn 1",
        "#!lua\nreturn 1\n-- KEYS: low\n",
    ],
)
def test_a_script_without_a_header_is_refused(source):
    with pytest.raises(ValueError, match=r"x\.lua"):
        Script("x", source)


def test_the_keys_of_a_script_come_in_their_order(desk):
    """Those it names of a queue, or exactly the given ones; those behind the dots are brought by the caller."""
    built = Script("x", "#!lua\n-- Does.\n-- KEYS: ledger low ...others\nreturn 1\n")
    assert built.keys == ("ledger", "low")
    keys = desk.keys
    assert built.command(keys, ["a", 1], ["k"]) == [3, keys.ledger, keys.low, "k", "a", 1]
    assert built.command(["x", "y"], ["a"]) == [2, "x", "y", "a"]


# --- every script in a scene of its own: what to prepare, and then what to do


async def publishing(desk):
    return partial(desk.publish, draft("a", "high"), draft("b", delay_ms=FAR), draft("c", once="k"))


async def acknowledging(desk):
    deliveries = await desk.deliver(draft("a", "high"), draft("b"), draft("c", "low"), draft("stays"))
    return partial(desk.store.ack, [d.key for d in deliveries if d.message_id != "stays"])


async def retrying(desk):
    deliveries = await desk.deliver(draft("a", "high"), draft("b"), draft("stays", "low"))
    return partial(desk.store.retry, "w1", [(d, Retry(Wait.RETRIED, FAR)) for d in deliveries[:2]])


async def burying(desk):
    deliveries = await desk.deliver(draft("a", "high"), draft("b"), draft("stays", "low"))
    return partial(desk.store.dead, "w1", [(d, LETTER) for d in deliveries[:2]])


async def releasing(desk):
    deliveries = await desk.deliver(draft("a", "high"), draft("b"), draft("stays", "low"))
    return partial(desk.store.release, "w1", deliveries[:2])


async def marking(desk):
    (delivery,) = await desk.deliver(draft("a"))
    return partial(desk.store.alone, "w1", delivery)


async def beating(desk):
    deliveries = await desk.deliver(draft("a", "high"), draft("b"))

    async def beat():
        return desk.beat("w1", deliveries, about="{}")

    return beat


async def promoting(desk):
    await desk.publish(*(draft(name, delay_ms=FAR) for name in "abcd"), draft("e", "high", delay_ms=FAR))
    for n, name in enumerate("abce"):
        desk.make_due(name, n)
    desk.raw("HSET", desk.keys.messages, "b", "junk")
    return partial(desk.store.promote)


async def reclaiming(desk):
    """One that runs again, a suspect, an unreadable one; on two levels, one of them of a silent worker."""
    await desk.deliver(draft("mine", "low"), consumer="w2")
    desk.add(entry=[b"x", b"y"])
    held = await desk.deliver(draft("a"), draft("suspect", deliveries=3), draft("b", "high"))
    for delivery in held[1:]:
        desk.age(delivery)
    desk.silence("w1")
    return partial(desk.reclaim, "w2", silent=["w1"])


async def cancelling(desk):
    await desk.publish(*(draft(name, delay_ms=FAR) for name in "abc"))
    return partial(desk.store.cancel, ["a", "b"])


async def evicting(desk):
    await desk.publish(draft("a", "low"), draft("b", "low"), draft("c"), draft("d", delay_ms=FAR))
    return partial(desk.store.evict, "normal", max_length=4, wanted=3)


async def purging(desk):
    await desk.publish(*(draft(name) for name in "abc"))
    ids = [entry for entry, _ in desk.raw("XRANGE", desk.keys.normal, "-", "+", "COUNT", 2)]
    return partial(desk.connections.run, script("purge"), [desk.keys.normal, desk.keys.ledger], [GROUP, *ids])


async def replaying(desk):
    deliveries = await desk.deliver(draft("a", "high"), draft("b"), draft("stays"))
    await desk.store.dead("w1", [(d, LETTER) for d in deliveries])
    ids = [entry for entry, _ in desk.raw("XRANGE", desk.keyspace.dead_letter, "-", "+", "COUNT", 2)]
    return partial(desk.connections.run, script("replay"), desk.keys, [0, *ids])


async def forgetting(desk):
    for delivery in await desk.deliver(draft("a"), draft("b", "low")):
        await desk.store.ack([delivery.key])
    desk.beat("w1", about="{}")
    return partial(desk.store.forget, "w1", dead_after_ms=0)


async def ensuring(desk):
    desk.raw("DEL", desk.keys.critical, desk.keys.low)
    return partial(desk.store.ensure)


async def auditing(desk):
    await desk.deliver(draft("a"), draft("b", delay_ms=FAR))
    return partial(desk.store.moment)


SCENES = {
    "ack": acknowledging, "alone": marking, "audit": auditing, "cancel": cancelling, "dead": burying,
    "ensure": ensuring, "evict": evicting, "extend": beating, "janitor": forgetting, "promote": promoting,
    "publish": publishing, "purge": purging, "reclaim": reclaiming, "release": releasing, "replay": replaying,
    "retry": retrying,
}  # fmt: skip
NEED_A_GROUP = {"alone", "dead", "extend", "janitor", "purge", "reclaim", "release", "retry"}


def test_every_script_has_its_scene():
    """But the register, those that only look at dead letters or rights, and the two-step moves of a Cluster."""
    assert set(NAMES) - SCENES.keys() == {"move", "register", "replay_across", "rights", "tally"}


def settled(state):
    """A state without the diagnostics that repetition changes."""
    return state | {"ledger": {name: n for name, n in state["ledger"].items() if name not in DIAGNOSTICS}}


@pytest.mark.parametrize("name", SCENES)
async def test_a_script_may_be_sent_twice(desk, name):
    """A reply that was lost is asked for again: nothing but diagnostics may change."""
    act = await SCENES[name](desk)
    await act()
    once = desk.state()
    await act()
    assert settled(desk.state()) == settled(once)


@pytest.mark.parametrize("name", sorted(SCENES.keys() - {"publish"}))
async def test_all_but_publishing_works_without_memory(desk, name):
    """Whatever may have to be done to make room."""
    act = await SCENES[name](desk)
    before = desk.state()
    desk.raw("CONFIG", "SET", "maxmemory", 1)
    await act()
    assert name in {"audit", "extend", "ensure"} or desk.state() != before


BREAKABLE = [
    pytest.param(name, key, id=f"{name}-{key}")
    for name in SCENES
    for key in (script(name).keys if name != "purge" else ("normal", "ledger"))
]


@pytest.mark.parametrize(("name", "key"), BREAKABLE)
async def test_a_key_of_the_wrong_type_costs_nothing(desk, name, key):
    """Whatever a script had done before it failed, doing it again when the key is back loses and doubles nothing."""
    act = await SCENES[name](desk)
    await act()
    undisturbed = desk.state()

    desk.raw("FLUSHALL")
    await desk.store.ensure()
    act = await SCENES[name](desk)
    broken = getattr(desk.keys, key)
    stashed = desk.raw("EXISTS", broken) and desk.raw("RENAME", broken, "stash")
    desk.raw("SET", broken, "x")
    for _ in range(3):  # whoever asks, asks again
        try:
            await act()
        except (RedisRefused, ConfigError):
            continue
    desk.raw("DEL", broken)
    if stashed:
        desk.raw("RENAME", "stash", broken)
    await act()
    assert comparable(desk.state()) == comparable(undisturbed)


EXPECTED = {
    "ack": "ledger", "alone": "ledger", "cancel": "messages ledger", "dead": "ledger dead", "evict": "ledger",
    "extend": "ledger", "promote": "messages ledger critical high normal low dead", "purge": "ledger",
    "reclaim": "delayed messages ledger dead", "release": "ledger", "replay": "ledger",
    "retry": "delayed messages ledger",
}  # fmt: skip


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in EXPECTED.items() for key in keys.split()])
async def test_a_key_of_the_wrong_type_fails_before_the_first_write(desk, name, key):
    """What was written before it failed would be written once more by the next try."""
    act = await SCENES[name](desk)
    broken = getattr(desk.keys, key)
    stashed = desk.raw("EXISTS", broken) and desk.raw("RENAME", broken, "stash")
    desk.raw("SET", broken, "x")
    before = without_beats(desk)
    with pytest.raises(RedisRefused):
        await act()
    assert without_beats(desk) == before
    desk.raw("DEL", broken)
    if stashed:
        desk.raw("RENAME", "stash", broken)


def without_beats(desk):
    """Every key, but for the beats: whoever calls has said that it lives."""
    return {key: held for key, held in desk.state_of_keys().items() if key != desk.keys.workers.encode()}


def comparable(state):
    """Where every message is and what was counted; entry ids differ from run to run."""
    letters = [{name: value for name, value in letter.items() if name != "original_entry"} for letter in state["dead"]]
    pending = sorted((level, *held) for (level, _), held in state["pending"].items())
    return settled(state) | {"dead": letters, "pending": pending}


@pytest.mark.parametrize("name", sorted(SCENES.keys() - {"ensure", "audit"}))
async def test_a_group_that_is_gone_loses_nothing(desk, name):
    """Scripts that ask the group say NOGROUP and change nothing; the others go on. `ensure` makes it anew."""
    act = await SCENES[name](desk)
    desk.raw("XGROUP", "DESTROY", desk.keys.normal, GROUP)
    before = desk.state()
    if name not in NEED_A_GROUP:
        await act()
    else:
        with pytest.raises(GroupMissing):
            await act()
        after = desk.state()
        assert without_workers(after) == without_workers(before) | done_before(name, after)
        waiting = {entry["id"] for entry in before["normal"] if isinstance(entry, dict) and "id" in entry}
        await desk.store.ensure()
        assert {delivery.message_id for delivery in desk.fetch("w9")} >= waiting


def without_workers(state):
    return {name: held for name, held in state.items() if name != "workers"}


def done_before(name, after):
    """What a batch had done on the level before the one whose group is gone: its items are complete each."""
    if name not in {"retry", "dead", "release"}:
        return {}
    moved = {"retry": ("delayed", "bodies"), "dead": ("dead",), "release": ("high",)}[name]
    assert len(after[moved[0]]) == 1
    return {part: after[part] for part in (*moved, "high", "pending", "ledger")}


async def test_scripts_survive_that_the_server_forgets_them(desk):
    """After a restart or a failover the server does not know their digests: they are sent in full."""
    assert await desk.publish(draft("a")) == ["OK"]
    desk.raw("SCRIPT", "FLUSH")
    assert await desk.publish(draft("b")) == ["OK"]
    assert await desk.publish(draft("c")) == ["OK"]
    desk.raw("SCRIPT", "FLUSH")
    assert desk.beat("w1").silent == []
    assert desk.state()["normal"] == [fields(name) for name in "abc"]


def test_no_script_reads_another_clock_or_scans():
    """Redis TIME only, and nothing unbounded: KEYS, SCAN, os.time and the like have no place here."""
    for name in NAMES:
        assert not re.search(r"os\.|'(SCAN|KEYS|RANDOMKEY|FLUSHALL)'|MAXLEN|NOACK|FORCE", script(name).plain), name


def test_what_the_fake_is_spared_is_there():
    """A test that was renamed would run on the fake unnoticed."""
    text = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    assert {name for name in NOT_ON_THE_FAKE if f"def {name}(" not in text} == set()
