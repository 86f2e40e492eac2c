"""Which faults happen in a soak."""

import itertools

from tests.soak.run import ENDS, in_turn


def test_one_worker_lives_as_long_as_the_run():
    ended = {action.victim % 4 for action in itertools.islice(in_turn(60, 4), 200) if action.kind in ENDS}
    assert ended == {1, 2, 3}
