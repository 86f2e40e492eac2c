"""The dead letters of all queues: found, refused, replayed and purged."""

import pytest

from streamq.core.outcome import DeadLetter, Reason
from streamq.core.signing import KeyRing
from streamq.store import dead_letters
from streamq.store.dead_letters import DeadLetter as Letter
from streamq.store.dead_letters import DeadLetters, Filter
from tests.contract.desk import QUEUE, draft, fields, flat, readable
from tests.contract.test_settle import counted

KEYS = KeyRing.parse("k1:active:" + "A" * 43 + "=")
PAIR = b"1:a,1:b,"  # packed; 3,500 are the most


@pytest.fixture
def letters(desk):
    return DeadLetters(desk.connections, desk.keyspace, KeyRing())


async def die(desk, *drafts, reason=Reason.REJECTED):
    await desk.store.register()
    for delivery in await desk.deliver(*drafts):
        await desk.store.dead("w1", [(delivery, DeadLetter(reason))])


async def everything(letters, which=Filter(), **options):  # noqa: B008 - it is frozen
    return [letter async for letter in letters.list(which, **options)]


def ids(found):
    return [letter.text("original_id") for letter in found]


# --- finding


async def test_letters_are_listed_the_oldest_first(desk, letters, monkeypatch):
    """Over pages, as many as asked for, and nothing changes by looking."""
    monkeypatch.setattr(dead_letters, "PAGE", 2)
    assert await everything(letters) == []
    await die(desk, *(draft(name) for name in "abcde"))
    before = desk.state_of_keys()
    assert ids(await everything(letters)) == list("abcde")
    assert ids(await everything(letters, limit=3)) == list("abc")
    assert ids(await everything(letters, limit=4)) == list("abcd")
    assert desk.state_of_keys() == before


async def test_letters_that_come_while_a_list_is_read_are_not_on_it(desk, letters, monkeypatch):
    """Else replaying what dies again at once would never end."""
    monkeypatch.setattr(dead_letters, "PAGE", 1)
    await die(desk, draft("a"), draft("b"))
    found = []
    async for letter in letters.list():
        found.append(letter)
        await die(desk, draft(f"new{len(found)}"))
    assert ids(found) == ["a", "b"]


async def test_a_letter_says_what_it_is(desk, letters):
    start = desk.now()
    await die(desk, draft("a", "high"))
    (letter,) = await everything(letters)
    assert (letter.queue, letter.type, letter.text("reason"), letter.text("none")) == ("orders", "t", "rejected", "")
    assert start / 1000 <= letter.failed_at <= desk.now() / 1000
    assert letters.target(letter) == "orders"


@pytest.mark.parametrize(
    ("held", "kind", "failed_at"),
    [
        ({}, None, 0.0), ({b"payload": b"{", b"failed_at": b"x"}, None, 0.0), ({b"payload": b"[]"}, None, 0.0),
        ({b"payload": b'{"type":"t"}', b"failed_at": b"1500"}, "t", 1.5), ({b"failed_at": b"9" * 5000}, None, 0.0),
    ],
)  # fmt: skip
def test_a_letter_of_others_may_say_nothing(held, kind, failed_at):
    letter = Letter("1-1", held)
    assert (letter.type, letter.failed_at, letter.queue) == (kind, failed_at, "")


@pytest.mark.parametrize(
    ("which", "found"),
    [
        (Filter(queue="orders"), "ab"), (Filter(queue="x"), ""), (Filter(reason="expired"), "b"),
        (Filter(type="t"), "ab"), (Filter(type="u"), ""), (Filter(older_than=0), "ab"), (Filter(older_than=60), ""),
        (Filter(newer_than=60), "ab"), (Filter(newer_than=-60), ""), (Filter(ids=frozenset(["b", "none"])), "b"),
        (Filter(ids=frozenset(["none"])), ""), (Filter(reason="expired", ids=frozenset(["a"])), ""),
    ],
)  # fmt: skip
async def test_letters_are_chosen_by_what_they_say(desk, letters, which, found):
    await die(desk, draft("a"))
    await die(desk, draft("b"), reason=Reason.EXPIRED)
    assert "".join(ids(await everything(letters, which))) == found


async def test_a_letter_is_found_by_its_own_id_and_its_messages(desk, letters):
    await die(desk, draft("a"), draft("b"), draft("7-7"))
    first, second, third = await everything(letters)
    assert await letters.get(second.dlq_id) == second
    assert await letters.get("a") == first
    assert await letters.get("7-7") == third
    assert await letters.get("1-1") is None
    assert await letters.get("none") is None
    wanted = Filter(ids=frozenset([second.dlq_id, first.dlq_id]))
    assert await everything(letters, wanted) == [first, second]
    assert await everything(letters, Filter(ids=frozenset([second.dlq_id, "a"]))) == [first, second]


# --- refusing


async def test_a_letter_goes_back_only_to_a_queue_that_there_is(desk, letters):
    await die(desk, draft("a", queue="nowhere"))
    (letter,) = await everything(letters)
    assert "'nowhere' does not exist" in await letters.refusal(letter)
    assert "'nowhere' does not exist" in await letters.refusal(letter, force=True)


async def test_what_was_unreadable_goes_back_by_force_alone(desk, letters):
    desk.add(entry=[b"x", b"y"])
    await die(desk)
    (letter,) = await everything(letters)
    assert "unreadable" in await letters.refusal(letter)
    assert await letters.refusal(letter, force=True) is None


async def test_what_is_not_signed_goes_back_where_that_is_no_reason(desk):
    """Without keys anything; with keys only what did not die for it, and what a signature vouches for."""
    await die(desk, draft("a"))
    await die(desk, draft("b"), reason=Reason.UNSIGNED)
    await die(desk, draft("c", signature="v1,k1,forged"))
    signed = {name.encode(): value.encode() for name, value in fields("d").items()}
    signature = KEYS.signer("orders").signature("orders", signed).decode()
    await die(desk, draft("d", signature=signature))
    plain, strict = (DeadLetters(desk.connections, desk.keyspace, keys) for keys in (KeyRing(), KEYS))
    found = await everything(plain)
    assert [await plain.refusal(letter) for letter in found[:2]] == [None, None]
    said = [await strict.refusal(letter) for letter in found]
    assert (said[0], said[3]) == (None, None)
    assert "not signed" in said[1]
    assert "bad_signature" in said[2]
    assert [await strict.refusal(letter, force=True) for letter in found] == [None] * 4


# --- replaying


async def test_a_letter_goes_back_in_the_same_bytes(desk, letters):
    """With a clean record, to its level; although its id was seen lately; once."""
    original = {"metadata": "{}", "signature": "v1,k,m"}
    await die(desk, draft("a", "high", **original, retry_count=3, deliveries=2, junk="x"))
    before, found = desk.state(), await everything(letters)
    assert await letters.replay(found) == {"OK": 1}
    after = before | {
        "high": [fields("a", "high", **original, retry_count=0)],
        "dead": [],
        "ledger": counted(before, replayed=1, **{"added:high": 1}),
    }
    assert desk.state() == after
    assert await letters.replay(found) == {"GONE": 1}
    assert desk.state() == after


async def test_a_signed_id_is_never_replaced(desk, letters):
    """By what a letter says of it, which is not signed."""
    await die(desk, draft("a"))
    desk.raw("XTRIM", desk.keyspace.dead_letter, "MAXLEN", 0)
    desk.raw("XADD", desk.keyspace.dead_letter, "*", *flat(fields("a", original_queue=QUEUE, original_id="b")))
    assert await letters.replay(await everything(letters)) == {"OK": 1}
    assert desk.state()["normal"] == [fields("a", retry_count=0)]


async def test_unreadable_letters_go_back_raw(desk, letters):
    """Byte for byte where they lay, and only by force; what never was an entry stays."""
    entry = [b"payload", b"1", b"payload", b"2"]
    desk.add(entry=entry)
    await die(desk)
    desk.raw("XADD", desk.keyspace.dead_letter, "*", "raw", "junk")
    desk.raw("XADD", desk.keyspace.dead_letter, "*", "x", "y")
    found = await everything(letters)
    assert await letters.replay(found) == {"RAW": 3}
    assert await letters.replay(found, force=True) == {"OK": 1, "RAW": 2}
    assert desk.state()["normal"] == [readable(entry)]
    for letter in found[1:]:
        desk.raw("XDEL", desk.keyspace.dead_letter, letter.dlq_id)


@pytest.mark.parametrize(
    ("raw", "word"),
    [(b"", "RAW"), (b"1:a,", "RAW"), (PAIR * 3500, "OK"), (PAIR * 3501, "RAW")],
    ids=["none", "odd", "most", "too many"],
)
async def test_what_is_no_entry_does_not_go_back(desk, letters, raw, word):
    """Not by force either, and nothing of it is lost."""
    await die(desk, draft("a"))
    desk.raw("XTRIM", desk.keyspace.dead_letter, "MAXLEN", 0)
    desk.raw("XADD", desk.keyspace.dead_letter, "*", "original_queue", QUEUE, "original_id", "a", "raw", raw)
    assert await letters.replay(await everything(letters), force=True) == {word: 1}
    assert desk.raw("XLEN", desk.keyspace.dead_letter) == (word == "RAW")


async def test_letters_of_several_queues_go_back_to_their_own(desk, letters, monkeypatch):
    """In batches a queue; progress tells of each."""
    monkeypatch.setattr(dead_letters, "BATCH", 2)
    other = desk.queue("another")
    await other.register()
    await die(desk, *(draft(f"o{n}") for n in range(3)), *(draft(f"x{n}", queue="another") for n in range(2)))
    progress = []
    assert await letters.replay(await everything(letters), progress=progress.append) == {"OK": 5}
    assert sorted(progress) == [1, 2, 2]
    assert sorted(entry["id"] for entry in desk.state()["normal"]) == ["o0", "o1", "o2"]
    assert sorted(entry["id"] for entry in desk.state(other)["normal"]) == ["x0", "x1"]
    assert desk.state(other)["ledger"] == {"replayed": 2, "added:normal": 2}
    assert (await other.moment()).imbalance == 0


async def test_a_replay_can_be_slow(desk, letters, monkeypatch):
    """So many a second: batches of that size, and a pause after each."""
    waited = []

    async def sleep(duration):
        waited.append(duration)

    monkeypatch.setattr(dead_letters.asyncio, "sleep", sleep)
    await die(desk, *(draft(f"m{n}") for n in range(5)))
    progress = []
    assert await letters.replay(await everything(letters), rate=2, progress=progress.append) == {"OK": 5}
    assert (progress, waited) == ([2, 2, 1], [1.0, 1.0, 0.5])


# --- purging


async def test_purged_letters_are_gone_and_counted(desk, letters, monkeypatch):
    monkeypatch.setattr(dead_letters, "BATCH", 2)
    await die(desk, draft("a"), draft("b"), draft("c"))
    found, progress = await everything(letters), []
    assert await letters.purge(found, progress=progress.append) == 3
    assert await letters.purge(found) == 0
    assert (desk.state()["dead"], progress) == ([], [2, 1])
