"""The program itself, in small: it finds nothing, and it would find something."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.powerloss.disk import transactions

ROOT = Path(__file__).parents[2]
MULTI, EXEC = b"*1\r\n$5\r\nMULTI\r\n", b"*1\r\n$4\r\nEXEC\r\n"
SET = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\r\n\r\n"


def run(*args):
    command = [sys.executable, "-m", "tests.powerloss", "--seed", str(random.randrange(10**6)), *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=55, check=False)


@pytest.mark.slow
@pytest.mark.faults
def test_m14_what_was_confirmed_survives_a_power_loss():
    """What was confirmed as durable is there after the append-only file lost what no fsync had covered."""
    done = run("--cycles", "6")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.faults
def test_m14_a_loss_would_be_seen():
    """A disk that forgets, and a server that confirms what the disk does not have, are both seen."""
    done = run("--cycles", "10", "--prove")
    assert done.returncode == 0, done.stdout + done.stderr


def test_transactions_are_found_in_a_file():
    one = MULTI + SET + SET + EXEC
    assert transactions(SET + one + SET + one + MULTI + SET[:-5]) == [
        (len(SET), len(SET + one)), (len(SET + one + SET), len(SET + one + SET + one)),
    ]  # fmt: skip
    assert transactions(b"") == transactions(SET) == transactions(b"*1\r\n$") == []
