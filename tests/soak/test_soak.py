"""The whole soak for less than a minute: planted leaks are found, a sound worker passes."""

import shutil

import pytest

from tests.soak.leaky import LEAKS
from tests.soak.run import Options, run

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(150)]
GROWS = {"memory": "memory MiB", "fds": "descriptors", "keys": "keys", "tasks": "tasks"}


def grown(leak=""):
    result, lines, folder = run(Options(minutes=0.7, seed="1", every=100, settle=8, leak=leak))
    assert result.clean  # what is off was printed
    shutil.rmtree(folder)
    return {line.name for line in lines if line.grows}


def test_a_sound_worker_passes():
    assert grown() == set()


def test_planted_leaks_are_found():
    assert grown(",".join(LEAKS)) >= {GROWS[leak] for leak in LEAKS}
