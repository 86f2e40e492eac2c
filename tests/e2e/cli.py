"""The command line against a private server: in this process where that will do, as a real process where it matters."""

import asyncio
import contextlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import redis
import structlog
import yaml
from typer.testing import CliRunner

from streamq import Context, Reject, StreamQ
from streamq.cli import app as commands
from streamq.settings import load_settings

ROOT = Path(__file__).parents[2]
STREAMQ = Path(sys.executable).with_name("streamq")
KEYS = "k1:active:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
CONFIG = {
    "queues": {"mail": {"max_retries": 0, "retry_delay": "0s"}, "small": {"max_length": 3}},
    "worker": {"block": "100ms"},
}


class Said:
    """What a command said, and its exit code."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def rows(self):
        """Stdout as the one JSON array that it must be."""
        rows = json.loads(self.out)
        assert isinstance(rows, list)
        return rows

    @property
    def row(self):
        (row,) = self.rows
        return row

    @property
    def lines(self):
        return [json.loads(line) for line in self.out.splitlines()]


class Cli:
    """Commands with a server, a configuration and a folder of their own."""

    def __init__(self, url, folder, *, keys=""):
        self.url, self.folder = url, folder
        self.redis = redis.Redis.from_url(url)
        self.config = folder / "queues.yaml"
        self.config.write_text(yaml.safe_dump(CONFIG))
        self.keys = keys

    def close(self):
        self.redis.close()

    def environment(self, **more):
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "STREAMQ_REDIS_URL": self.url,
            "STREAMQ_CONFIG": str(self.config),
            "STREAMQ_SIGNING_KEYS": self.keys,
            **more,
        }

    def __call__(self, *words, input=None, code=0, **env):
        """Run a command in this process; its exit code must be `code`."""
        with _logging_untouched():
            done = CliRunner().invoke(commands, words, input=input, env=self.environment(**env), catch_exceptions=False)
        assert done.exit_code == code, done.output
        return Said(done.exit_code, done.stdout, done.stderr)

    def json(self, *words, **options):
        """The rows that a command prints as JSON."""
        return self(*words, "-o", "json", **options).rows

    def start(self, *words, **options):
        """Start a real process."""
        command = [STREAMQ, *words]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        env = self.environment(**options.pop("env", {}))
        return subprocess.Popen(command, env=env, cwd=self.folder, **{**pipes, **options})

    def process(self, *words, input="", **env):
        """Run a real process to its end."""
        process = self.start(*words, env=env, stdin=subprocess.PIPE)
        out, err = process.communicate(input.encode(), timeout=30)
        return Said(process.returncode, out.decode(), err.decode())

    def call(self, action):
        """Run ``await action(app)`` with a connected app."""

        async def run():
            async with self.app() as app:
                return await action(app)

        return asyncio.run(run())

    def app(self):
        app = StreamQ(settings=load_settings(environ=self.environment(), start=self.folder))

        @app.handler(["mail", "other"])
        async def good(ctx: Context) -> None: ...

        @app.handler(["mail", "other"])
        async def bad(why: str = "no such mailbox") -> None:
            raise Reject(why)

        @app.handler(["mail", "other"])
        async def broken() -> None:
            raise RuntimeError("boom \x1b[31m\N{RIGHT-TO-LEFT OVERRIDE} red")

        return app

    def work(self, *queues):
        """Run a worker until nothing is ready."""
        with _logging_untouched():
            logging.disable(logging.CRITICAL)
            self.call(lambda app: app.worker(*(queues or ("mail",)), burst=True).run())
            logging.disable(logging.NOTSET)

    def publish(self, kind, *, queue="mail", payload=None, **options):
        """Publish one message. Returns its id."""
        body = {"type": kind, **(payload or {})}
        return self.call(lambda app: app.publish(queue, body, **options)).id

    def die(self, kind="bad", count=1, **options):
        """Let messages become dead letters. Returns their ids."""
        ids = [self.publish(kind, **options) for _ in range(count)]
        self.work(options.get("queue", "mail"))
        return ids

    def ledger(self, queue="mail"):
        return {name.decode(): int(value) for name, value in self.redis.hgetall(f"{{queue:{queue}}}:ledger").items()}

    def payloads(self, queue="mail"):
        return [fields[b"payload"] for _, fields in self.redis.xrange(f"queue:{queue}")]

    def letters(self):
        """Dead letters by their own id, as bytes."""
        return {entry.decode(): fields for entry, fields in self.redis.xrange("queue:dead_letter")}


@contextlib.contextmanager
def _logging_untouched():
    """A command sends logs to the stderr of its time; the tests after it have another."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
