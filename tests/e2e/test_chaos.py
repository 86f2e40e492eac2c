"""Everything at once, at random: the law holds, nothing is lost, and every process ends in one of the known ways."""

import random
import signal
import time
from collections import Counter

import pytest

from tests.e2e.rig import QUICK, Publishing
from tests.support import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.slow]

KINDS = {  # kind: how many, what they need
    "slow": (600, {"seconds": 0.03}),
    "fail_times": (150, {"times": 1}),
    "sync_slow": (150, {"seconds": 0.03}),
    "process_slow": (50, {"seconds": 0.03}),
}
CONCURRENCY, FAULTS_FOR = 6, 15.0


class Chaos:
    """Three workers that are killed, stopped and ended, and a server that is killed and frozen."""

    def __init__(self, rig, seed):
        self.rig, self.random = rig, random.Random(seed)
        self.workers = [rig.start("--concurrency", str(CONCURRENCY)) for _ in range(3)]
        self.happened = Counter()

    def run(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.wait(0.3, 2)
            fault = self.random.choice([self.kill, self.kill, self.terminate, self.stop, self.kill_server, self.freeze])
            fault(self.random.choice(self.workers))
            self.happened[fault.__name__] += 1

    def wait(self, least, most):
        until = time.monotonic() + self.random.uniform(least, most)
        wait_until(lambda: time.monotonic() > until)

    def kill(self, worker):
        worker.kill()
        self.replace(worker)

    def terminate(self, worker):
        worker.signal(signal.SIGTERM)
        self.replace(worker)

    def replace(self, worker):
        self.workers.remove(worker)
        self.workers.append(self.rig.start("--concurrency", str(CONCURRENCY)))

    def stop(self, worker):
        worker.freeze()
        self.wait(0.5, 5)
        worker.thaw()

    def kill_server(self, _):
        self.rig.server.kill()
        self.wait(0, 2)
        self.rig.server.start()

    def freeze(self, _):
        self.rig.server.pause()
        self.wait(0.2, 8)
        self.rig.server.resume()


@pytest.mark.timeout(200)
def test_nothing_is_lost_whatever_happens(lasting):
    rig, seed = lasting, random.randrange(10**6)
    rig.configure({**QUICK, "max_length": 0, "max_retries": 50})
    keys = {kind: [f"{kind}{number}" for number in range(count)] for kind, (count, _) in KINDS.items()}
    publishing = [Publishing(rig, kind, keys[kind], payload=payload) for kind, (_, payload) in KINDS.items()]
    chaos = Chaos(rig, seed)
    chaos.run(FAULTS_FOR)
    for publisher in publishing:
        publisher.join(60)
        assert (publisher.is_alive(), publisher.errors) == (False, [])
    rig.empty(seconds=90)
    finishes, told = Counter(rig.keys_of("F")), (seed, chaos.happened)
    assert set(finishes) == {key for several in keys.values() for key in several}, told
    assert finishes.total() - len(finishes) <= chaos.happened.total() * CONCURRENCY * 3, told
    assert rig.ledger()["accepted"] == rig.ledger()["done"] == len(finishes), told
    assert rig.dead() == [], told
    assert {worker.code for worker in rig.workers} <= {None, 0, -signal.SIGKILL, -signal.SIGTERM}, told
    assert not any(worker.said("Traceback") for worker in rig.workers), told
