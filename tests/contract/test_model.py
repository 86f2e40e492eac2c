"""The model check: random operations and faults on the scripts, everything compared with a model after each of them.

STREAMQ_MODEL_OPS says how many operations, all servers together (20,000); STREAMQ_MODEL_SEED repeats a run. What fails
is cut down to the few operations that it takes, and printed as a program.
"""

import os
import random
import sys

import pytest

from tests.model.check import check, missing
from tests.model.driver import Bench
from tests.model.servers import TurnedServer
from tests.support import SERVERS

OPERATIONS = int(os.environ.get("STREAMQ_MODEL_OPS", "20000"))


@pytest.fixture(params=SERVERS)
def kind(request):
    return request.param


@pytest.fixture(params=["standalone", "cluster"])
def bench(request, kind):
    server = TurnedServer(kind, clustered=request.param == "cluster")
    bench = Bench(server)
    yield bench
    bench.close()
    server.close()


@pytest.mark.slow
@pytest.mark.timeout(400 + OPERATIONS / 10)
def test_nothing_is_lost_or_doubled_whatever_happens(bench, capsys):
    """The law is 0 and every accepted message is in exactly one place, after every single operation."""
    number = int(os.environ.get("STREAMQ_MODEL_SEED") or random.randrange(10**9))
    with capsys.disabled():
        sys.stdout.write(f" STREAMQ_MODEL_SEED={number} ")
    operations = OPERATIONS // (2 * len(SERVERS))
    try:
        check(bench, operations=operations, number=number)
    except BaseException as error:
        error.add_note(f"STREAMQ_MODEL_SEED={number}")
        raise
    assert operations < 10_000 or missing(bench) == []
