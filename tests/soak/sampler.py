"""Looks at every worker and at the server, about once a second."""

import contextlib
import os
import re
import time
from collections import defaultdict
from pathlib import Path
from urllib.request import urlopen

import redis

from tests.chaos.story import QUEUES
from tests.chaos.watch import Watch

SCRAPE_TIMEOUT = 1.0  # seconds
PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
TASKS = re.compile(rb"^streamq_worker_tasks (\S+)$", re.MULTILINE)

# What must not grow, and by how much it may over a run: what a full slot, an open connection or the allocator's grain
# make of a moment. Of a worker, then of the server.
OF_A_WORKER = {"memory MiB": 4, "descriptors": 3, "threads": 3, "children": 2, "tasks": 8}
OF_THE_SERVER = {"connections": 6, "keys": 6, "consumers": 16, "workers known": 6, "used MiB": 2}
BOUNDS = {**OF_A_WORKER, **OF_THE_SERVER}


class Sampler(Watch):
    """Takes samples until it is stopped.

    Args:
        house: whose processes.
        settle: seconds after its start that a process, or the run, gets to become steady.
    """

    def __init__(self, house, settle):
        super().__init__("sampler")
        self._house, self._settle = house, settle
        self._born = {}
        self.series = {name: defaultdict(list) for name in BOUNDS}  # name -> process -> [(seconds, value)]
        self.count = 0

    def look(self):
        self.count += 1
        for process in self._house.workers:
            with contextlib.suppress(OSError, ValueError):  # it is gone
                self._take(process.pid, _of_process(process))
        with contextlib.suppress(redis.RedisError, OSError):
            self._take("server", self._of_server())

    def _take(self, who, values):
        now = time.monotonic()
        if now - self._born.setdefault(who, now) >= self._settle:
            for name, value in values.items():
                self.series[name][who].append((now, value))

    def _of_server(self):
        with redis.Redis.from_url(self._house.url, socket_timeout=2) as client, client.pipeline(False) as pipe:
            pipe.info("clients")
            pipe.dbsize()
            pipe.info("memory")
            for queue in QUEUES:
                pipe.hlen(f"{{queue:{queue}}}:workers")
            for queue in QUEUES:
                pipe.xinfo_groups(f"queue:{queue}")
            clients, keys, memory, *rest = pipe.execute()
        known, groups = rest[: len(QUEUES)], rest[len(QUEUES) :]
        return {
            "connections": clients["connected_clients"],
            "keys": keys,
            "consumers": sum(group["consumers"] for found in groups for group in found),
            "workers known": sum(known),
            "used MiB": memory["used_memory"] / 2**20,
        }


def _of_process(process):
    proc = Path(f"/proc/{process.pid}")
    values = {
        "memory MiB": int((proc / "statm").read_text().split()[1]) * PAGE_SIZE / 2**20,
        "descriptors": len(list((proc / "fd").iterdir())),
        "threads": len(list((proc / "task").iterdir())),
        "children": len((proc / "task" / str(process.pid) / "children").read_text().split()),
    }
    url = f"http://127.0.0.1:{process.port}/metrics"
    with contextlib.suppress(OSError), urlopen(url, timeout=SCRAPE_TIMEOUT) as reply:  # or it is stopped just now
        values["tasks"] = float(TASKS.search(reply.read())[1])
    return values
