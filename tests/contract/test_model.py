"""The model check: random operations on the scripts, and everything compared with a model after each of them.

STREAMQ_MODEL_OPS says how many operations, all servers together (20,000); STREAMQ_MODEL_SEED repeats a run.
"""

import os
import random
import sys

import pytest

from tests.model.operations import Operations
from tests.support import SERVERS

OPERATIONS = int(os.environ.get("STREAMQ_MODEL_OPS", "20000"))


@pytest.mark.slow
@pytest.mark.timeout(60 + OPERATIONS / 20)
async def test_nothing_is_lost_or_doubled_whatever_happens(desk, capsys):
    """The law is 0 and every accepted message is in exactly one place, after every single operation."""
    seed = int(os.environ.get("STREAMQ_MODEL_SEED") or random.randrange(10**9))
    with capsys.disabled():
        sys.stdout.write(f" STREAMQ_MODEL_SEED={seed} ")
    driver = Operations(desk, random.Random(seed))
    try:
        await driver.run(OPERATIONS // len(SERVERS))
    except BaseException as error:
        trace = "\n".join(driver.trace)
        error.add_note(f"STREAMQ_MODEL_SEED={seed}, operation {driver.done}; the last ones:\n{trace}")
        raise
