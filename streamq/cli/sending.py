"""What ``streamq publish`` sends: payloads from the command line or from lines of JSON, and what became of each."""

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Self, cast

import typer

from streamq.cli.output import Format, JsonWriter, print_table, shown
from streamq.cli.progress import Progress
from streamq.cli.run import FAILURE, NOT_FOUND, fail

if TYPE_CHECKING:
    from streamq.core.options import Options
    from streamq.core.receipt import Receipt
    from streamq.publisher import Publisher

BLOCK = 256 * 1024  # bytes read at once; less when that is all there is, so that a slow producer is not held up
AT_ONCE = 500  # messages offered together: a call of the publisher
LOUD = 20  # problems told one by one


class Line(NamedTuple):
    """A message to be: where it stands, and its payload or what is wrong with it."""

    place: str
    payload: bytes = b""
    problem: str = ""


def payload_of(raw: bytes, type: str | None) -> bytes:
    """A payload from JSON text, with its type. The values keep their exact spelling.

    Args:
        raw: a JSON object.
        type: what its ``type`` is to be; None when it has one.

    Raises:
        ValueError: it is no JSON object, or its type is missing, no text, or another one.
    """
    import msgspec

    from streamq.core.codec import DECODE_ERRORS, encode_payload
    from streamq.core.errors import InvalidMessage

    try:
        members = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        said = msgspec.json.decode(members["type"]) if "type" in members else None
    except DECODE_ERRORS as error:
        raise ValueError(f'{error}; a payload is a JSON object like {{"id": 7}}') from None
    if "type" in members and not isinstance(said, str):
        raise ValueError('its type should be a text, like "send_welcome_email"')
    if said is None and type is None:
        raise ValueError('there is no type: give TYPE after the queue, or a member "type"')
    if said is not None and type is not None and said != type:
        raise ValueError(f"its type is {said!r} and TYPE is {type!r}: leave one of them away")
    try:
        return encode_payload({"type": type, **members} if said is None else members)
    except InvalidMessage as error:
        raise ValueError(str(error)) from None


async def repeated(payload: bytes | None, count: int) -> AsyncIterator[list[Line]]:
    """One payload, so many times."""
    line = Line("", payload or b"")
    for start in range(0, count, AT_ONCE):
        yield [line] * min(AT_ONCE, count - start)


async def of_file(path: Path, type: str | None) -> AsyncIterator[list[Line]]:
    """The lines of a file, block by block; empty ones are left out.

    Args:
        path: the file; ``-`` is stdin.
        type: of lines that do not say theirs.

    Exits with 4 when it is not there.
    """
    name = "stdin" if str(path) == "-" else str(path)
    with ExitStack() as stack:
        file = sys.stdin.buffer if name == "stdin" else stack.enter_context(_open(path))
        number, rest = 0, b""
        while True:
            block = await _read(file)
            *whole, rest = (rest + block).split(b"\n") if block else (rest, b"")
            lines = [_line(f"{name}:{number + n}", raw, type) for n, raw in enumerate(whole, start=1) if raw.strip()]
            number += len(whole)
            for start in range(0, len(lines), AT_ONCE):
                yield lines[start : start + AT_ONCE]
            if not block:
                return


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError:
        fail(f"--file {path}: there is no such file", NOT_FOUND)
    except OSError as error:
        fail(f"--file {path}: {error.strerror}", FAILURE)


async def _read(file: BinaryIO) -> bytes:
    """What is there already. Waited for on the event loop: a thread that waits for stdin outlives a Ctrl-C."""
    import os
    import stat

    import anyio

    try:
        number = file.fileno()
    except OSError:  # not a file of the system
        return file.read(BLOCK)
    mode = os.fstat(number).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(number):
        await anyio.wait_readable(number)
    return os.read(number, BLOCK)


def _line(place: str, raw: bytes, type: str | None) -> Line:
    try:
        return Line(place, payload_of(raw.removeprefix(b"\xef\xbb\xbf"), type))
    except ValueError as error:
        return Line(place, problem=str(error))


class Sender:
    """Publishes lines, prints receipts, and tells what was not accepted.

    Args:
        publisher: sends them.
        queue: where to.
        options: of all of them.
        form: of the receipts.
        total: how many there will be, where that is known.
    """

    def __init__(
        self, publisher: "Publisher", queue: str, options: "Options", form: Format, *, total: int | None
    ) -> None:
        self._publisher, self._queue, self._options, self._form = publisher, queue, options, form
        self._receipts: list[Receipt] = []
        self._writer = JsonWriter(form)
        self._sent = self._duplicates = self._unconfirmed = 0
        self._many = total is None or total > 1
        self._progress = Progress(f"publishing to {queue}", total)
        self.problems: list[tuple[Line, Exception]] = []
        self.unknown = False

    def __enter__(self) -> Self:
        if self._many:
            self._progress.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Print what was accepted, however it ended."""
        self._progress.__exit__()
        if self._form is Format.TABLE:
            if self._receipts:
                print_table([receipt._asdict() for receipt in self._receipts], ("id", "queue", "duplicate"))
        else:
            self._writer.close()
        if len(self.problems) > LOUD:
            typer.echo(f"... and {len(self.problems) - LOUD} more", err=True)
        if self._many:
            refused = len(self.problems) - self._unconfirmed
            counts = f"{self._sent} accepted, {self._duplicates} duplicates, {refused} not accepted"
            counts += f", {self._unconfirmed} not confirmed as durable" if self._unconfirmed else ""
            typer.echo(f"{self._queue}: {counts}", err=True)

    async def send(self, lines: Sequence[Line]) -> bool:
        """Publish lines. Returns whether it makes sense to go on.

        Raises:
            RedisRefused: Redis will not take any.
        """
        import asyncio

        from streamq.core.errors import DurabilityUnconfirmed, InvalidMessage, PublishUnknown, QueueFull

        good = [line for line in lines if not line.problem]
        for line in lines:
            if line.problem:
                self._trouble(line, ValueError(line.problem))
        offers = (self._publisher.publish(self._queue, line.payload, self._options) for line in good)
        results = await asyncio.gather(*offers, return_exceptions=True)
        go_on = True
        for line, result in zip(good, results, strict=True):
            match result:
                case InvalidMessage():
                    self._trouble(line, result)
                case QueueFull() | PublishUnknown():
                    self._trouble(line, result)
                    self.unknown = self.unknown or isinstance(result, PublishUnknown)
                    go_on = False
                case DurabilityUnconfirmed():
                    self._accepted(cast("Receipt", result.receipts[0]))
                    self._unconfirmed += 1
                    self._trouble(line, result)
                    go_on = False
                case BaseException():
                    raise result
                case _:
                    self._accepted(result)
        if not go_on and lines[-1].place:
            typer.echo(f"stopped after {lines[-1].place}: what follows was not read", err=True)
        return go_on

    def _accepted(self, receipt: "Receipt") -> None:
        self._duplicates += receipt.duplicate
        self._sent += not receipt.duplicate
        if self._form is Format.TABLE:
            self._receipts.append(receipt)
        else:
            self._writer.write(receipt._asdict())
        self._progress.advance()

    def _trouble(self, line: Line, error: Exception) -> None:
        self.problems.append((line, error))
        if len(self.problems) <= LOUD:
            typer.echo(f"{line.place}: {shown(str(error))}" if line.place else shown(str(error)), err=True)
