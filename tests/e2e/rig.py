"""What an end-to-end test works with: a server of its own, worker processes, what their handlers wrote, and the law."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import redis
import yaml

from streamq import StreamQ
from streamq.core.ledger import Moment
from streamq.settings import load_settings
from tests.e2e import journal
from tests.e2e.places import connect, url_of
from tests.support import wait_until
from tests.unit.foreign_signer import sign

ROOT = Path(__file__).parents[2]

# Things that no log may show. The key is ASCII on purpose: its raw bytes are looked for as well as its base64.
PASSWORD = "canary-of-redis"
SECRET = b"canary-of-signing-0123456789abcdef"
SECRET_BASE64 = "Y2FuYXJ5LW9mLXNpZ25pbmctMDEyMzQ1Njc4OWFiY2RlZg=="
SMTP_PASSWORD = "canary-of-smtp"
NOTE = "canary-of-payload"
CANARIES = (PASSWORD, SECRET.decode(), SECRET_BASE64.rstrip("="), SMTP_PASSWORD, NOTE)
KEYS = f"k1:active:{SECRET_BASE64}"

#: Short times, so that a test sees within seconds what takes minutes in production.
QUICK = {"lease": "2s", "retry_delay": "200ms"}


class Worker:
    """One ``streamq worker`` process."""

    def __init__(self, command, *, cwd, env, log):
        self.log = log
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
        self.pid = self._process.pid

    @property
    def code(self):
        """The exit code; None while it runs."""
        return self._process.poll()

    def signal(self, number):
        self._process.send_signal(number)

    def signal_group(self, number):
        """What a terminal does with Ctrl-C, and a service manager with SIGTERM."""
        os.killpg(self.pid, number)

    def kill(self):
        """End it as the kernel does when memory is short."""
        self._process.kill()
        self._process.wait()

    def freeze(self):
        self.signal(signal.SIGSTOP)

    def thaw(self):
        self.signal(signal.SIGCONT)

    def children(self):
        """The processes below it, by pid."""
        file = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(pid) for pid in file.read_text().split()] if file.exists() else []

    def ended(self, seconds=30):
        """Wait for its end. Returns the exit code."""
        return self._process.wait(seconds)

    def stop(self, seconds=30):
        """Ask it to end, and wait. Returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.ended(seconds)

    def said(self, text):
        """Whether its log holds a text."""
        return text in self.text()

    def tail(self, lines=40):
        return self.text().splitlines()[-lines:]

    def text(self):
        return self.log.read_text(errors="replace")


class Rig:
    """A server, a folder, and whatever a test starts with them."""

    def __init__(self, server, folder, *, password=PASSWORD):
        self.server, self.folder = server, folder
        self.url = url_of(server, password)
        self.redis = connect(self.url)
        self.journal_file = folder / "journal"
        self.gates = folder / "gates"
        self.gates.mkdir()
        self.workers = []
        self.config = folder / "queues.yaml"
        self.keys = KEYS
        self.configure()

    def configure(self, defaults=QUICK, *, worker=None, queues=None):
        """Write the configuration. What is running keeps the one that it started with."""
        self.config.write_text(yaml.safe_dump({"defaults": defaults, "queues": queues or {}, "worker": worker or {}}))

    def without_uvloop(self):
        """Variables for a worker on asyncio's own loop, as where the extra `fast` is not installed."""
        (self.folder / "sitecustomize.py").write_text("import sys\n\nsys.modules['uvloop'] = None\n")
        return {"PYTHONPATH": os.pathsep.join([str(self.folder), self.environment()["PYTHONPATH"]])}

    def environment(self, **more):
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            "STREAMQ_REDIS_URL": self.url,
            "STREAMQ_CONFIG": str(self.config),
            "STREAMQ_SIGNING_KEYS": self.keys,
            "STREAMQ_APP": "tests.e2e.app:app",
            "SMTP_PASSWORD": SMTP_PASSWORD,
            "LOG_LEVEL": "debug",
            "E2E_JOURNAL": str(self.journal_file),
            "E2E_GATES": str(self.gates),
            **more,
        }

    # --- workers

    def start(self, *arguments, queue=("work",), env=None, cwd=None):
        """Start a worker, without waiting for it."""
        queues = [part for name in queue for part in ("--queue", name)]
        worker = Worker(
            [sys.executable, "-m", "streamq", "worker", *queues, *arguments],
            cwd=cwd or self.folder,
            env=self.environment(**(env or {})),
            log=self.folder / f"worker-{len(self.workers)}.log",
        )
        self.workers.append(worker)
        return worker

    def worker(self, *arguments, queue=("work",), **options):
        """Start a worker and wait until it beats."""
        worker = self.start(*arguments, queue=queue, **options)
        self.beats(worker, queue)
        return worker

    def beats(self, worker, queue=("work",)):
        """Wait until a worker has reached Redis."""
        wait_until(lambda: worker.code is not None or all(self.consumer(worker, name) for name in queue), 30)
        assert worker.code is None, worker.text()

    def listening(self, readers=1):
        """Wait until so many readers wait for messages: what is published now goes into the socket of one of them."""
        wait_until(lambda: self.redis.info("clients")["blocked_clients"] == readers)

    def consumer(self, worker, queue="work"):
        """The name of a worker in the group; None before it has said that it lives."""
        return next((name for name in self.consumers(queue) if name.split(":")[1] == str(worker.pid)), None)

    def consumers(self, queue="work"):
        names = [name.decode() for name in self.redis.hkeys(f"{{queue:{queue}}}:workers")]
        return [name for name in names if not name.startswith("!")]

    # --- messages

    def call(self, action, **variables):
        """Run ``await action(app)`` with a connected app in this process."""
        return asyncio.run(self._call(action, variables))

    async def _call(self, action, variables):
        environ = self.environment(**variables)
        async with StreamQ(settings=load_settings(environ=environ, start=self.folder)) as app:
            return await action(app)

    def publish(self, kind, *keys, queue="work", payload=None, **options):
        """Publish a message for each key, in order."""
        payloads = [{"type": kind, "key": key, "note": NOTE, **(payload or {})} for key in keys]
        return self.call(lambda app: app.publish_many(queue, payloads, **options))

    def entry(self, kind, key, *, queue="work", level="3", number=None, payload=None, metadata=None):
        """The signed fields of an entry as a stranger would write them, not yet signed."""
        number = number or f"foreign-{key}"
        payload = json.dumps({"type": kind, "key": key, "note": NOTE, **(payload or {})})
        return {
            "id": number,
            "queue": queue,
            "priority": level,
            "payload": payload,
            "metadata": json.dumps(metadata or {}),
        }

    def signature(self, fields, key=("k1", SECRET)):
        return sign({name.encode(): _raw(value) for name, value in fields.items()}, *key).decode()

    def add(self, fields, *, queue="work", key=("k1", SECRET), **more):
        """Add an entry with a plain XADD, signed with a key unless that is None."""
        signature = {"signature": self.signature(fields, key)} if key else {}
        return self.redis.xadd(self.streams(queue)[2], {**fields, **signature, **more}).decode()

    def open(self, gate="gate"):
        """Let handlers go on that wait at a gate."""
        (self.gates / gate).touch()

    # --- what happened

    @property
    def journal(self):
        return journal.read(self.journal_file)

    def keys_of(self, event, kind=None):
        """The keys of all events of a kind, with repetitions."""
        return [line.key for line in self.journal if line.event == event]

    def started(self, *keys, seconds=15):
        """Wait until all of these have been started."""
        wait_until(lambda: set(keys) <= set(self.keys_of("S")), seconds)

    def finished(self, *keys, seconds=15):
        """Wait until all of these have been finished."""
        wait_until(lambda: set(keys) <= set(self.keys_of("F")), seconds)

    def moment(self, queue="work") -> Moment:
        return self.call(lambda app: app.session.inspector.moment(queue))

    def pending(self, worker=None, queue="work"):
        """How many entries a worker holds, or all of them."""
        name = self.consumer(worker, queue) if worker else None
        total = 0
        for stream in self.streams(queue):
            with contextlib.suppress(redis.ResponseError):  # no group yet
                for consumer in self.redis.xpending(stream, "streamq")["consumers"]:
                    total += consumer["pending"] if name in (None, consumer["name"].decode()) else 0
        return total

    def left(self, queue="work"):
        """Messages that lie in the queue: ready, in flight and delayed."""
        waiting = self.redis.zcard(f"{{queue:{queue}}}:delayed")
        return waiting + sum(self.redis.xlen(stream) for stream in self.streams(queue))

    def empty(self, queue="work", seconds=30):
        """Wait until nothing is left of a queue."""
        wait_until(lambda: self.left(queue) == 0, seconds)

    def ledger(self, queue="work"):
        found = self.redis.hgetall(f"{{queue:{queue}}}:ledger")
        return {name.decode(): int(value) for name, value in found.items()}

    def dead(self):
        """All dead letters, the oldest first, as dicts of text. In a Cluster those on their way are among them."""
        moved = self._letters("queue:dead_letter")
        on_their_way = [each for name in self.queues() for each in self._letters(f"{{queue:{name.decode()}}}:dead")]
        return moved + [letter for letter in on_their_way if letter not in moved]  # arrived, and not yet left

    def _letters(self, stream):
        letters = self.redis.xrange(stream)
        return [{n.decode(): v.decode(errors="replace") for n, v in fields.items()} for _, fields in letters]

    def queues(self):
        return self.redis.smembers("queue:names")

    def reasons(self):
        """Why messages died, by their id."""
        return {letter["original_id"]: letter["reason"] for letter in self.dead()}

    def streams(self, queue="work"):
        return (f"{{queue:{queue}}}:critical", f"{{queue:{queue}}}:high", f"queue:{queue}", f"{{queue:{queue}}}:low")

    # --- the end

    def close(self):
        """End every process that this rig has started."""
        for worker in self.workers:
            if worker.code is None:
                children = worker.children()
                worker.kill()
                for pid in children:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        self.redis.close()

    def check_law(self):
        """What came in and did not go out lies there, on every queue that was used; the dead letters add up, too."""
        dead = 0
        for name in self.queues():
            moment = self.moment(name.decode())
            assert (moment.imbalance, moment.body_imbalance, moment.deleted_streams) == (0, 0, []), moment
            dead += moment.counters.get("dead", 0) - moment.counters.get("replayed", 0)
        purged = int(self.redis.hget("{queue:dead_letter}:ledger", "purged") or 0)
        assert dead - purged == len(self.dead())

    def check_logs(self):
        """No line of any log tells a secret."""
        for worker in self.workers:
            told = [(canary, line) for line in worker.text().splitlines() for canary in CANARIES if canary in line]
            assert told == []


def _raw(value):
    return value if isinstance(value, bytes) else value.encode()


class Publishing(threading.Thread):
    """Publishes one message after the other in the background, whatever happens to the server.

    Attributes:
        accepted: keys whose publish returned.
        errors: what it raised.
    """

    def __init__(self, rig, kind, keys, *, at_once=1, payload=None):
        super().__init__(daemon=True)
        self._rig, self._kind, self._keys, self._at_once, self._payload = rig, kind, keys, at_once, payload or {}
        self.accepted, self.errors = [], []
        self.start()

    def run(self):
        self._rig.call(self._publish)

    async def _publish(self, app):
        keys = iter(self._keys)

        async def one_after_the_other():
            for key in keys:
                try:
                    await app.publish("work", {"type": self._kind, "key": key, "note": NOTE, **self._payload})
                    self.accepted.append(key)
                except Exception as error:  # noqa: BLE001 - whatever it is, the test wants to see it
                    self.errors.append(error)

        await asyncio.gather(*(one_after_the_other() for _ in range(self._at_once)))


def used(rig, request):
    """What a fixture yields from: a rig for one test. It ends with the law and a look into the logs."""
    rig.redis.flushall()
    try:
        yield rig
    finally:
        rig.close()
        for number, worker in enumerate(rig.workers):  # shown when the test failed
            told = [f"--- worker {number}, pid {worker.pid}, exit code {worker.code}", *worker.tail()]
            request.node.add_report_section("teardown", f"worker {number}", "\n".join(told))
    rig.check_logs()
    rig.check_law()
