"""The processes of the run: a server, workers behind proxies of their own, producers. Started and buried here."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

from streamq.testing.server import PrivateServer
from tests.chaos.history import HISTORY
from tests.chaos.story import QUEUES
from tests.servers.ports import free_port
from tests.servers.proxy import FaultProxy
from tests.support import server_binary, wait_until

ROOT = Path(__file__).parents[2]
KEYS = "k1:active:" + "Y2hhb3M" * 6 + "Y="
PASSWORD = "chaos"
APPS = ("tests.chaos.app:app", "tests.chaos.app_next:app")
CONCURRENCY = 4
MEMORY = 1536 * 1024 * 1024  # bytes of address space of a worker that lives under a limit
AGAIN_AFTER = 0.3  # seconds after which a process that died is started anew, as a service manager does
DRAIN = 5  # seconds
HANDED_BACK = frozenset({0, 75, 130})  # exit codes of a worker that left nothing behind
# Short times, so that minutes show what takes hours. A lease and a silence that a busy machine does not feign.
SETTINGS = {
    "defaults": {"lease": "6s", "retry_delay": "300ms", "max_retries": 60, "max_length": 1500, "ack_timeout": "60s"},
    "worker": {"beat_interval": "1500ms", "silent_after": "8s", "seen_window": "60s", "block": "1s"},
}


class Process:
    """One process that was started, and how it ended."""

    def __init__(self, command, *, env, log, limit=None):
        if limit:
            command = ["/bin/sh", "-c", 'ulimit -v "$0" && exec "$@"', str(limit // 1024), *command]
        with log.open("ab") as file:
            self._popen = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip
        self.pid, self.log = self._popen.pid, log
        self.killed = False  # by us
        self.port = 0  # where it serves its metrics

    @property
    def code(self):
        """The exit code; None while it runs."""
        return self._popen.poll()

    def signal(self, number):
        """Send a signal; one that has ended hears nothing."""
        self._popen.send_signal(number)

    def kill(self):
        """SIGKILL, and wait: afterwards it is surely dead."""
        self.killed = self.killed or self.code is None
        self._popen.kill()
        self._popen.wait()

    def bury(self):
        """End it with whatever it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()


class Slot:
    """A place where one worker runs; its successor runs at the same place, while the old one may still drain."""

    def __init__(self, house, number):
        self.house, self.number = house, number
        self.proxy = FaultProxy(house.server.url.replace("unix://", f"unix://:{PASSWORD}@"))
        self.version, self.limited = number % 2, number == 0
        self.current, self.leaving = None, []
        self.again_at, self.started = 0.0, 0

    def start(self):
        """Start a worker, without waiting for it."""
        house = self.house
        self.started += 1
        port = free_port() if house.http else 0
        log = house.folder / f"worker-{self.number}-{self.started}.log"
        self.current = Process(
            house.worker_command(self.version, port), env=house.environment(self.proxy.url), log=log,
            limit=MEMORY if self.limited else None,
        )  # fmt: skip
        self.current.port = port
        house.slot_of[self.current.pid] = self.number

    def replace(self, number=signal.SIGTERM):
        """Tell the worker to end and start its successor at once."""
        if self.current is not None and self.current.code is None:
            self.current.signal(number)
            self.leaving.append(self.current)
        self.start()


class House:
    """Everything that runs.

    Args:
        folder: where histories and logs go.
        kind: of the server.
        fsync: its appendfsync.
        workers: how many.
        producers: how many.
        rate: messages a second, of all producers together.
        seed: what the producers make up follows from it.
        weights: of kinds of messages, instead of the usual ones.
        naive: the workers and producers are those of `naive.py`.
        http: workers serve their metrics.
        settings: of workers and producers.
        apps: the two versions of the app.
        variables: more of the environment.
    """

    def __init__(
        self, folder, *, kind, fsync="everysec", workers=4, producers=2, rate=80.0, seed="0", weights="", naive=False,
        http=False, settings=SETTINGS, apps=APPS, variables=None,
    ):  # fmt: skip
        self.folder, self.seed, self.naive, self.http = Path(folder), seed, naive, http
        self.apps, self.variables = apps, variables or {}
        self.rate, self.weights = rate, weights
        args = ["--requirepass", PASSWORD, "--appendonly", "yes", "--appendfsync", fsync, "--maxclients", "2000"]
        self.server = PrivateServer(server_binary(kind), args=args)
        self.url = self.server.url.replace("unix://", f"unix://:{PASSWORD}@")
        self.slot_of = {}  # pid -> number of the slot that it runs in
        self.slots = [Slot(self, number) for number in range(workers)]
        self.gate = FaultProxy(self.url)  # between the producers and the server
        self.producers, self.producer_count, self._generation = [], producers, 0
        self.ends = []  # (process, when): every worker that ended
        self.deaf = []  # workers that did not end when they were asked to
        self.config = self.folder / "queues.yaml"
        self.config.write_text(yaml.safe_dump(settings))
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        self._stack.enter_context(self.server)
        for proxy in self.proxies:
            self._stack.enter_context(proxy)
        for slot in self.slots:
            slot.start()
        for _ in range(self.producer_count):
            self.start_producer()
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.bury()
        self._stack.close()

    @property
    def proxies(self):
        """All of them: each worker's, and the producers'."""
        return [*(slot.proxy for slot in self.slots), self.gate]

    @property
    def workers(self):
        """Workers that were not buried yet."""
        return [p for slot in self.slots for p in (slot.current, *slot.leaving) if p is not None]

    @property
    def processes(self):
        """All that we started and did not bury yet."""
        return [*self.workers, *self.producers]

    @property
    def producers_ended(self):
        """Whether every producer has come to its end."""
        return all(producer.code is not None for producer in self.producers)

    def environment(self, url):
        """The variables of a process that reaches the server at this URL."""
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            "STREAMQ_REDIS_URL": url,
            "STREAMQ_CONFIG": str(self.config),
            "STREAMQ_SIGNING_KEYS": KEYS,
            "LOG_LEVEL": "info",
            HISTORY: str(self.folder),
            **self.variables,
        }

    def worker_command(self, version, port):
        """What starts a worker of a version of the app; it serves its metrics at this port, if it does."""
        queues = [part for queue in QUEUES for part in ("--queue", queue)]
        choices = ["--app", self.apps[version], "--concurrency", str(CONCURRENCY)]
        if self.naive:
            return [sys.executable, "-m", "tests.chaos.naive", *queues, *choices]
        http = ["--http", f"127.0.0.1:{port}"] if port else []
        return [sys.executable, "-m", "streamq", "worker", *queues, *choices, "--drain-timeout", f"{DRAIN}s", *http]

    def start_producer(self):
        """Start a producer of a name that nobody had before: its keys are its own."""
        self._generation += 1
        command = [
            sys.executable, "-m", "tests.chaos.producers", "--name", f"p{self._generation}", "--seed", self.seed,
            "--rate", f"{self.rate / self.producer_count}", "--weights", self.weights,
        ]  # fmt: skip
        log = self.folder / "producers.log"
        command += ["--naive"] if self.naive else []
        self.producers.append(Process(command, env=self.environment(self.gate.url), log=log))

    def look_after(self):
        """Bury what ended, and start anew what died. To be called often."""
        now = time.monotonic()
        for slot in self.slots:
            for process in [p for p in slot.leaving if p.code is not None]:
                slot.leaving.remove(process)
                self.ends.append((process, now))
            if slot.current is None:
                if now >= slot.again_at:
                    slot.start()
            elif slot.current.code is not None:
                self.ends.append((slot.current, now))
                slot.current, slot.again_at = None, now + AGAIN_AFTER

    def stop_producers(self):
        """Ask them to end; they take no longer than what is still open."""
        for producer in self.producers:
            producer.signal(signal.SIGTERM)

    def stop_workers(self):
        """Ask all workers to end, and wait until they have."""
        for process in self.workers:
            process.signal(signal.SIGTERM)
        with contextlib.suppress(AssertionError):
            wait_until(lambda: all(process.code is not None for process in self.workers), 30)
        for slot in self.slots:
            for process in filter(None, (slot.current, *slot.leaving)):
                self.deaf += [process] if process.code is None else []
                process.kill()
                self.ends.append((process, time.monotonic()))
            slot.current, slot.leaving = None, []

    @property
    def deaths(self):
        """(process, when) of workers that handed nothing back: killed, or ended by a message or a bug."""
        return [(process, at) for process, at in self.ends if process.code not in HANDED_BACK]
