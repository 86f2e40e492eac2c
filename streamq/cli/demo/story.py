"""What the demo does, from beginning to end."""

import asyncio
import base64
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from streamq.cli.demo.smtp import DEFERRED, REFUSED, Postbox, outside_world
from streamq.cli.output import print_table
from streamq.core import codec
from streamq.core.errors import StreamqError
from streamq.core.options import Options
from streamq.session import Session, open_session
from streamq.settings import load_settings

QUEUE = "email_queue"
PATIENCE = 45.0  # seconds after which the demo counts what there is
CONFIG = """\
queues:
  email_queue:
    consumer_group: email_consumers
    max_consumers: 5
    ack_timeout: 10s
    lease: 3s
    retry_delay: 2s
    max_retries: 3
    unknown_type_timeout: 5s
"""


class World:
    """Where the demo takes place: a directory of its own, an SMTP server, an environment for the worker.

    Args:
        home: the directory.
        smtp_port: of the SMTP server on 127.0.0.1.
    """

    def __init__(self, home: Path, smtp_port: int) -> None:
        self.home = home
        (home / "queues.yaml").write_text(CONFIG)
        key = f"demo:active:{base64.b64encode(secrets.token_bytes(32)).decode()}"
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("STREAMQ_", "SMTP_", "QUEUE_"))
        }
        self.environment = {
            **kept, "STREAMQ_SIGNING_KEYS": key, "SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(smtp_port),
            "SMTP_FROM": "shop@demo.example", "LOG_LEVEL": "warning",
        }  # fmt: skip
        self.settings = load_settings(
            config=home / "queues.yaml", redis_url=f"embedded://{home / 'redis'}", environ=self.environment
        )

    @contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        """A worker process, ended with the block."""
        command = [sys.executable, "-m", "streamq", "worker", "--queue", QUEUE, "--app", "workers:app"]
        command += ["--config", "queues.yaml", "--redis-url", str(self.settings.redis_url)]
        with (self.home / "worker.log").open("ab") as log:
            process = subprocess.Popen(command, cwd=self.home, env=self.environment, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def tell(mails: int) -> bool:
    """Run the demo and print its table. Returns whether every figure is right."""
    home = Path(tempfile.mkdtemp(prefix="streamq-demo-"))
    kept = False
    try:
        async with outside_world() as (postbox, port):
            world = World(home, port)
            async with open_session(world.settings) as session:
                _say(f"embedded server, SMTP server on port {port}, a worker for {QUEUE}")
                await _work(world, session, postbox, mails)
                right = await _report(session, postbox, mails)
        kept = not right
        return right
    except ImportError as missing:
        raise StreamqError(f"the demo needs {missing.name}: pip install 'streamq[demo]'") from missing
    finally:
        if kept:
            _say(f"the worker's log is kept in {home / 'worker.log'}")
        else:
            shutil.rmtree(home, ignore_errors=True)


async def _work(world: World, session: Session, postbox: Postbox, mails: int) -> None:
    with world.worker() as first:
        await _publish(session, mails)
        _say(f"published {mails} good mails, 1 deferred, 1 refused, 1 delayed, 1 forged, 1 of an unknown type")
        with _progress(mails + 2) as advance:
            await _until(lambda: len(postbox.taken) >= mails // 3, advance, postbox)
            os.kill(first.pid, signal.SIGKILL)
            _say(f"kill -9 of the worker after {len(postbox.taken)} mails; starting another")
            with world.worker():
                await _until(lambda: len(postbox.taken) >= mails + 2, advance, postbox)
                await _until_quiet(session)


async def _publish(session: Session, mails: int) -> None:
    publisher = session.publisher

    async def publish(payload: dict[str, Any], **options: Any) -> None:
        await publisher.publish(QUEUE, codec.encode_payload(payload), Options(**options))

    welcome = [codec.encode_payload(_welcome(f"customer{n}@demo.example")) for n in range(mails)]
    await publisher.publish_many(QUEUE, welcome, Options())
    await publish(_welcome(DEFERRED))
    await publish(_welcome(REFUSED))
    await publish(_welcome("later@demo.example"), delay=4)
    await publish({"type": "send_pigeon", "to": "roof@demo.example"})
    forged = publisher.draft(
        session.settings.config.queue(QUEUE), codec.encode_payload(_welcome("victim@demo.example")), Options()
    )
    honest = forged.fields[forged.fields.index(b"payload") + 1]
    tampered = [honest.replace(b"victim@", b"thief@") if part is honest else part for part in forged.fields]
    await session.connections.execute("XADD", session.keyspace.queue(QUEUE).normal, "*", *tampered)


def _welcome(recipient: str) -> dict[str, Any]:
    return {"type": "send_welcome_email", "recipient": recipient, "template": "welcome", "data": {"name": "Ada"}}


async def _until(condition: Any, advance: Any, postbox: Postbox) -> None:
    until = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < until:
        advance(len(postbox.taken))
        await asyncio.sleep(0.05)
    advance(len(postbox.taken))


async def _until_quiet(session: Session) -> None:
    """Wait until nothing is left to do: the unknown type takes its time."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        moment = await session.inspector.moment(QUEUE)
        if moment.length == 0 and moment.delayed == 0:
            return
        await asyncio.sleep(0.1)


async def _report(session: Session, postbox: Postbox, mails: int) -> bool:
    moment = await session.inspector.moment(QUEUE)
    letters = [letter async for letter in session.dead_letters.list()]
    reasons = sorted(letter.text("reason") for letter in letters)
    twice = sum(count > 1 for count in postbox.taken.values())
    slots = session.settings.config.queue(QUEUE).max_consumers
    expected_reasons = ["bad_signature", "rejected", "unknown_type"]
    retried = moment.counters.get("retried", 0)
    # A mail that the server took just before the kill is sent again: at least once, at most one for each slot.
    rows = [
        _row("delivered (read from the SMTP server)", len(postbox.taken), mails + 2, len(postbox.taken) == mails + 2),
        _row("delivered twice (at most one a slot)", twice, f"<= {slots}", twice <= slots),
        _row("retried after a 4xx", retried, 1, retried >= 1 and postbox.deferred == 1),
        _row("dead letters", ", ".join(reasons) or "none", ", ".join(expected_reasons), reasons == expected_reasons),
        _row("left in the queue", moment.length + moment.delayed, 0, moment.length + moment.delayed == 0),
        _row("ledger: accepted less accounted for", moment.imbalance, 0, moment.imbalance == 0),
    ]
    print_table(rows, ["figure", "seen", "expected", "ok"])
    return all(row["ok"] == "yes" for row in rows)


def _row(figure: str, seen: object, expected: object, ok: bool) -> dict[str, object]:
    return {"figure": figure, "seen": str(seen), "expected": str(expected), "ok": "yes" if ok else "NO"}


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("delivered", total=total)
        yield lambda done: progress.update(task, completed=done)


def _say(text: str) -> None:
    import typer

    typer.echo(text, err=True)
