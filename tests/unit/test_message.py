"""Entries as they come from a stream, ids, counters, sizes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamq.core.config import LEVELS
from streamq.core.errors import InvalidMessage
from streamq.core.message import (
    LEVEL_OF,
    PRIORITY_OF,
    SIGNED_FIELDS,
    Draft,
    Metadata,
    check_message_id,
    delivery_from,
    is_message_id,
    new_message_id,
)
from tests.unit.builders import deliver, entry, message

GOOD_IDS = ["a", "msg_0198c0de", "A.b:c-d_9", "x" * 128, "-", "eNORMAL-1-1"]
BAD_IDS = ["", "x" * 129, "a b", "a\n", "\na", "a/b", "a~b", "ä", "a\x00", "a,b", "{a}", "\ud800"]


def test_levels_and_their_numbers():
    """1 is critical, 4 is low: on the wire and back."""
    assert PRIORITY_OF == {"critical": b"1", "high": b"2", "normal": b"3", "low": b"4"}
    assert {number: level for level, number in PRIORITY_OF.items()} == LEVEL_OF
    assert tuple(PRIORITY_OF) == LEVELS


def test_what_is_signed():
    """The signed fields in the order in which the signature covers them."""
    assert SIGNED_FIELDS == (b"id", b"queue", b"priority", b"payload", b"metadata")


# --- ids


@pytest.mark.parametrize("message_id", GOOD_IDS)
def test_ids_that_may_be_used(message_id):
    """1 to 128 letters, digits and four signs."""
    assert check_message_id(message_id) == message_id
    assert is_message_id(message_id.encode())
    assert deliver(entry(id=message_id)).message_id == message_id


@pytest.mark.parametrize("message_id", BAD_IDS, ids=ascii)
def test_ids_that_may_not_be_used(message_id):
    """Anything else is refused with its name, whatever characters it has."""
    with pytest.raises(InvalidMessage, match="1 to 128 characters"):
        check_message_id(message_id)
    assert not is_message_id(message_id.encode(errors="surrogatepass"))


@pytest.mark.parametrize("now_ms", [0, 1, 1_800_000_000_000, 2**48 - 1])
def test_our_ids_are_uuids_of_version_7(now_ms):
    """RFC 9562, 5.7: 48 bits of time, the version, the variant, and 74 random bits."""
    ids = {new_message_id(now_ms) for _ in range(50)}
    assert len(ids) == 50
    for message_id in ids:
        assert re.fullmatch(r"msg_[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}", message_id)
        assert int(message_id[4:16], 16) == now_ms
        assert check_message_id(message_id)


def test_an_id_byte_by_byte(monkeypatch):
    """48 bits of time, then random bytes, of which six bits are replaced."""
    monkeypatch.setattr("os.urandom", lambda size: bytes(range(0xF0, 0xF0 + size)))
    assert new_message_id(0x0123456789AB) == "msg_0123456789ab70f1b2f3f4f5f6f7f8f9"


def test_all_random_bits_of_an_id_are_random():
    """Every bit but those of time, version and variant takes both values."""
    values = [int(new_message_id(0)[4:], 16) for _ in range(400)]
    ones = zeros = 0
    for value in values:
        ones, zeros = ones | value, zeros | ~value
    both = ones & zeros & (2**128 - 1)
    assert both == (2**12 - 1) << 64 | (2**62 - 1)


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**48 - 1))
def test_ids_sort_by_time(one, other):
    """An id that was made later is the greater text."""
    if one != other:
        assert (new_message_id(one) < new_message_id(other)) == (one < other)


# --- deliveries


def test_an_entry_is_taken_as_it_is():
    """Names and values keep their bytes, and the place it came from is remembered."""
    delivery = delivery_from("orders", "low", b"12-3", [b"id", b"a", b"payload", b"\xff"], 4)
    assert (delivery.queue, delivery.level, delivery.entry_id, delivery.token) == ("orders", "low", "12-3", 4)
    assert (delivery.fields, delivery.doubled) == ({b"id": b"a", b"payload": b"\xff"}, False)
    assert delivery.key == ("low", "12-3")
    assert (delivery.started_at, delivery.deadline, delivery.lost, delivery.settling) == (0, float("inf"), False, False)


def test_what_is_known_of_a_fresh_delivery():
    """Handed over for the first time, not lost by anybody; and every name has a value."""
    delivery = delivery_from("orders", "low", b"12-3", [])
    assert (delivery.token, delivery.losses, delivery.fields) == (1, 0, {})
    with pytest.raises(ValueError, match="shorter"):
        delivery_from("orders", "low", b"12-3", [b"id"])


def test_drafts_are_due_at_once():
    """Unless somebody says when, and no key makes one unique."""
    draft = Draft("m", "normal", [])
    assert (draft.delay_ms, draft.due_ms, draft.idempotency_key) == (0, 0, None)


def test_a_message_cannot_be_changed():
    """Nor can its metadata: a handler sees what was signed."""
    found = message(metadata=Metadata(max_retries=1))
    with pytest.raises(AttributeError):
        found.payload = b"{}"
    with pytest.raises(AttributeError):
        found.metadata.max_retries = 2


def test_two_deliveries_are_never_equal():
    """A delivery is a thing, not a value: the same entry twice is two of them, and each can be a key."""
    one, other = deliver(entry()), deliver(entry())
    assert one != other
    assert len({one, other}) == 2


@pytest.mark.parametrize(
    ("flat", "doubled"),
    [
        ([], False),
        ([b"a", b"1", b"b", b"1"], False),
        ([b"a", b"1", b"a", b"1"], True),
        ([b"a", b"1", b"b", b"2", b"a", b"3"], True),
    ],
)
def test_a_name_that_is_given_twice_is_noticed(flat, doubled):
    """XADD keeps both, and nobody can say which one was meant."""
    assert deliver(flat).doubled is doubled


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({}, "elow-7-0"), ({"id": b"\xff"}, "elow-7-0"), ({"id": "a b"}, "elow-7-0"), ({"id": "mine"}, "mine")],
)
def test_an_absent_or_unusable_id_is_made_from_the_entrys(fields, expected):
    """Every delivery has an id that can be shown and stored."""
    found = deliver(entry(without=() if fields else ("id",), **fields), level="low")
    assert found.message_id == expected
    assert is_message_id(found.message_id.encode())


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (None, 0), (b"0", 0), (b"7", 7), (b"007", 7), (b"9999999999999999", 9999999999999999),
        (b"10000000000000000", 0), (b"", 0), (b"-1", 0), (b"+1", 0), (b" 1", 0), (b"1\n", 0), (b"1.0", 0),
        (b"1e3", 0), (b"1_000", 0), (b"nan", 0), (b"0x10", 0), (b"\xd9\xa1", 0), (b"\xff", 0),
    ],
)  # fmt: skip
def test_counters_are_plain_numbers_or_nothing(raw, value):
    """1 to 16 ASCII digits count; whatever else stands there counts as 0."""
    delivery = deliver(entry(**({} if raw is None else {"retry_count": raw})))
    assert delivery.counter(b"retry_count") == value


@pytest.mark.parametrize(
    ("deliveries", "token", "known", "losses"),
    [(None, 1, None, 0), (None, 3, None, 2), ("2", 1, None, 2), ("2", 3, None, 4), ("x", 2, None, 1), ("2", 1003, 4, 4),
     ("2", 3, 0, 0)],
)  # fmt: skip
def test_losses(deliveries, token, known, losses):
    """What is written in the entry and the hand-overs after the first; the caller knows better where it says so."""
    fields = entry() if deliveries is None else entry(deliveries=deliveries)
    assert deliver(fields, token=token, losses=known).losses == losses


# --- sizes


def test_the_size_is_that_of_all_fields():
    """Names and values count, also of fields that nobody knows and of those that are there twice."""
    assert deliver([b"id", b"a", b"payload", b"{}", b"x", b"yy"]).size == 2 + 1 + 7 + 2 + 1 + 2
    assert deliver([b"a", b"1", b"a", b"1"]).size == 4
    assert Draft("m", "normal", [b"id", b"a", b"payload", b"{}"]).size == 2 + 1 + 7 + 2


COUNTERS = {"retry_count": "12", "deliveries": "3", "held_since": "1800000000000", "alone": "1"}


def test_what_we_write_beside_a_message_does_not_make_it_larger():
    """A message that was accepted at the limit is not too large when it comes back from a retry."""
    fields = entry()
    size = Draft("m", "normal", [part for pair in fields.items() for part in pair]).size
    assert deliver(fields).size == size
    for name, value in COUNTERS.items():
        assert deliver(entry(**{name: value})).size == size
    assert deliver(entry(**COUNTERS)).size == size


def test_the_id_that_we_make_up_does_not_make_a_message_larger():
    """Nor do the id and the level that an entry of another publisher gets when it is rewritten."""
    bare = deliver(entry(without=("id", "priority")))
    assert deliver(entry(id="enormal-1800000000000-0")).size == bare.size
    assert deliver(entry(id="elow-1-12", priority="4", **COUNTERS)).size == bare.size


@pytest.mark.parametrize("name", COUNTERS)
def test_only_plain_counters_are_ours(name):
    """What no counter looks like counts: nobody hides a megabyte in it."""
    assert deliver(entry(**{name: "9" * 1000})).size == deliver(entry()).size + len(name) + 1000
    assert deliver(entry(**{name: ""})).size == deliver(entry()).size + len(name)


@pytest.mark.parametrize("message_id", ["eurgent-1-1", "enormal-1", "xenormal-1-1", "enormal-1-1x"])
def test_only_made_up_ids_are_ours(message_id):
    """An id that another publisher chose counts."""
    assert deliver(entry(id=message_id)).size == deliver(entry(id="")).size + len(message_id)


# --- netstrings
