"""One mutant against the contract suite and, if it survives, the model checker: the first failure catches it.

The contract suite is collected once, and run once without any mutant: what fails then would prove nothing, and each
test shows which scripts it calls. A mutant is tried by those that call its script alone, in the same process, so that
each takes milliseconds.
"""

import contextlib
import os
import re
import sys
from functools import cache
from multiprocessing import parent_process
from multiprocessing.util import Finalize
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from streamq.store import scripts
from tests.model.check import check
from tests.model.driver import Bench
from tests.model.servers import TurnedServer
from tests.mutants.mutate import scripts as all_scripts

CONTRACT = Path(__file__).parents[1] / "contract"
SERVER = "valkey-9.1"
SEEDS, OPERATIONS = (1, 2, 3), 1000  # so many operations for each seed
ACROSS = {"move", "replay_across"}  # what runs in a Cluster alone
NOT_MODELLED = {"register", "rights", "tally"}  # no worker writes by these
# The files of the contract suite that are about scripts; the others are about connections.
FILES = (
    "beats", "dead_letters", "dead_letters_in_a_cluster", "delayed", "edges", "inspect", "looking", "publish",
    "reclaim", "room", "scripts", "server_facts", "settle", "versions",
)  # fmt: skip
BENCHES = {}  # of this process, until it ends


class BrokenSuite(Exception):
    """It fails without any mutant, so it would catch everything."""


def replace(name, text):
    """From now on this script has this text. Nothing on the disk changes."""
    read = getattr(scripts._read, "plain", scripts._read)

    def patched(wanted):
        return text if wanted == name else read(wanted)

    patched.plain = read
    scripts._read = patched
    scripts.script.cache_clear()


# --- the contract suite


def work(todo, done, files):
    """A process that tries mutants: takes them from one queue until None comes, and puts (mutant, verdict) on another.

    The verdict says in words who caught it, and is None when it lived. An exception is put as it is.
    """
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, sys.stdout.fileno())
    command = [
        "-q", "-n0", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning",
        "-m", "not slow", "-k", "not redis- and not fakeredis", *(f"{CONTRACT}/test_{name}.py" for name in files),
    ]  # fmt: skip
    try:
        pytest.main(command, plugins=[Trials(todo, done)])
    finally:
        done.put(None)


class Trials:
    """A pytest session that runs its tests for one mutant after the other."""

    def __init__(self, todo, done):
        self.todo, self.done = todo, done
        self.failed = False  # the test that runs
        self.used, self.called = set(), ()  # by it, and by its body alone

    def pytest_runtestloop(self, session):
        try:
            tests = self.without_mutant(session.items)
        except BrokenSuite as error:
            self.done.put(error)
            return True
        for mutant in iter(self.todo.get, None):
            if not parent_process().is_alive():
                break
            self.done.put((mutant, self.by_suite(mutant, tests) or by_model(mutant)))
        return True

    def pytest_runtest_logreport(self, report):
        self.failed |= report.failed

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self):
        self.used.clear()  # what fixtures use, every test does
        result = yield
        self.called = frozenset(self.used)
        return result

    def passes(self, test):
        """Run it, with all that it takes but what the session keeps."""
        self.failed = False
        test.ihook.pytest_runtest_protocol(item=test, nextitem=test.session)
        return not self.failed

    def without_mutant(self, items):
        """Script -> the tests that use it."""
        tests, command = {}, scripts.Script.command

        def recorded(script, *args, **more):
            self.used.add(script.name)
            return command(script, *args, **more)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scripts.Script, "command", recorded)
            for test in items:
                self.called = ()
                if not self.passes(test):
                    raise BrokenSuite(test.nodeid)
                for name in self.called:
                    tests.setdefault(name, []).append(test)
        return tests

    def by_suite(self, mutant, tests):
        """Two failures of a test catch it: one may be a machine that was busy. It is the first to try the next."""
        users = dict.fromkeys(test for name in users_of(mutant.script) for test in tests.get(name, ()))
        replace(mutant.script, mutant.text)
        try:
            for test in users:
                if not self.passes(test) and not self.passes(test):
                    for name in users_of(mutant.script):
                        tests.get(name, []).sort(key=lambda other: other is not test)
                    return test.name
        finally:
            replace("", "")
        return None


@cache
def users_of(name):
    """The scripts that a file is part of."""
    if not name.startswith("lib/"):
        return (name,)
    include = re.compile(rf"^-- include: .*\b{name.removeprefix('lib/')}\b", re.MULTILINE)
    return tuple(user for user, text in all_scripts().items() if include.search(text))


# --- the model checker


def by_model(mutant):
    """What the model took to catch it, in words; None when it lived."""
    if mutant.script in NOT_MODELLED:
        return None
    replace(mutant.script, mutant.text)
    try:
        return until_caught(clustered=mutant.script in ACROSS)
    finally:
        replace("", "")


def until_caught(*, clustered, seeds=SEEDS):
    """Run the model until it finds something. Returns what it took, or None."""
    place = bench(clustered=clustered)
    before = place.operations
    for number in seeds:
        try:
            check(place, operations=OPERATIONS, number=number, shrink=False)
        except Exception:  # noqa: BLE001 - whatever the product or the model trips over
            return f"model, {place.operations - before} operations"
    return None


def bench(*, clustered):
    """A server to try mutants on."""
    if clustered not in BENCHES:
        server = TurnedServer(SERVER, clustered=clustered)
        Finalize(None, server.close, exitpriority=1)  # atexit is not for children of multiprocessing
        BENCHES[clustered] = Bench(server)
    return BENCHES[clustered]


def compiles(mutant):
    """Whether Redis takes its text at all: a slip of the pen proves nothing."""
    user = users_of(mutant.script)[-1]
    replace(mutant.script, mutant.text)
    try:
        with contextlib.suppress(ResponseError):
            bench(clustered=False).raw("SCRIPT", "LOAD", scripts.script(user).text)
            return True
        return False
    finally:
        replace("", "")
