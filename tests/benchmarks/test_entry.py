"""The loops written by hand do the same work: their entries are streamq's, and streamq's are theirs."""

import pytest

from benchmarks.contestants.entry import KEYS, Entries
from streamq.core.signing import KeyRing

RING = KeyRing.parse(KEYS)


def paired(flat):
    return dict(zip(flat[::2], flat[1::2], strict=True))


def test_streamq_believes_what_they_sign():
    assert RING.verify("bench", paired(Entries("bench").make(b'{"type":"noop"}'))) is None


def test_they_believe_what_streamq_signs():
    fields = paired(Entries("bench").make(b'{"type":"noop"}'))
    fields[b"id"], fields[b"payload"] = b"msg_1", b'{"type":"other"}'
    fields[b"signature"] = RING.signer("bench").signature("bench", fields)
    flat = [part for pair in fields.items() for part in pair]
    assert Entries("bench").payload(flat) == b'{"type":"other"}'


@pytest.mark.parametrize("changed", [1, 7, 9, 11])
def test_they_refuse_what_was_changed(changed):
    fields = Entries("bench").make(b'{"type":"noop"}')
    fields[changed] += b" "
    with pytest.raises(ValueError, match="does not hold"):
        Entries("bench").payload(fields)


def test_the_key_of_another_queue_does_not_fit():
    with pytest.raises(ValueError, match="does not hold"):
        Entries("bench2").payload(Entries("bench").make(b"{}"))


def test_ids_differ():
    entries = Entries("bench")
    assert entries.make(b"{}")[1] != entries.make(b"{}")[1]
