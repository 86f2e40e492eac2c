"""A sample of the law says what does not hold, and the final state is read as it was written."""

import pytest

from streamq.core.config import LEVELS
from streamq.core.ledger import LevelMoment, Moment
from tests.chaos.ledger import Sample
from tests.support import pack_fields, paired, unpack_fields


def moment(*, length=0, added=0, delayed=0, bodies=0, **counters):
    """A queue whose entries all lie in its normal stream."""
    empty = LevelMoment(0, 0, 0, None, None, 0)
    levels = dict.fromkeys(LEVELS, empty) | {"normal": empty._replace(length=length, entries_added=added)}
    return Moment(0, delayed, bodies, counters, levels)


SOUND = {"accepted": 5, "done": 2, "dead": 1, "added:normal": 5}


def broken(letters=0, **more):
    return Sample(0.0, {"alpha": moment(**{"length": 2, "added": 5, **SOUND, **more})}, letters).broken()


def test_a_sound_moment_is_not_broken():
    assert broken() == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"length": 1}, "alpha: imbalance 1"),
        ({"done": 3}, "alpha: imbalance -1"),
        ({"bodies": 1}, "alpha: 1 bodies too many among the delayed"),
        ({"added": 4, "accepted": 5}, "alpha: deleted normal"),
        ({"added": 6, "length": 3}, "alpha: 1 entries that nobody counted"),
        ({"letters": 1}, "dead letters: imbalance 1"),
    ],
    ids=["lost", "too many", "body", "deleted", "foreign", "letters"],
)
def test_what_does_not_hold_is_said(more, words):
    assert broken(**more) == [words]


def test_totals_go_over_all_queues():
    sample = Sample(0.0, {"alpha": moment(length=2, accepted=3), "beta": moment(delayed=1, accepted=4)}, 0)
    assert (sample.left, sample.total("accepted"), sample.total("done")) == (3, 7, 0)


def test_packed_entries_are_read():
    fields = {b"id": b"m", b"payload": b'{"key":"a:1,b"}', b"empty": b""}
    assert paired(unpack_fields(pack_fields([part for pair in fields.items() for part in pair]))) == fields
