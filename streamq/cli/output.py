"""What commands print: tables for people, JSON for programs. Data goes to stdout, everything else to stderr."""

import enum
import re
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import IO, Annotated, Any

import typer

from streamq.cli.options import option


class Format(enum.StrEnum):
    """The forms of output."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


Output = Annotated[Format, option("-o", "--output", help="table, json (an array) or jsonl (a row a line).")]

Row = Mapping[str, Any]

# What a terminal would obey instead of showing: messages and errors come from anybody.
_UNSHOWABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def show(rows: Iterable[Row], form: Format, columns: Sequence[str] | None = None, *, empty: str = "nothing") -> None:
    """Print rows.

    Args:
        rows: each with the same members.
        form: how.
        columns: which members a table shows; JSON shows all.
        empty: said on stderr instead of a table without rows.
    """
    listed = list(rows)
    if form is Format.TABLE:
        if listed:
            print_table(listed, columns or list(listed[0]))
        else:
            typer.echo(empty, err=True)
        return
    writer = JsonWriter(form)
    for row in listed:
        writer.write(row)
    writer.close()


async def show_stream(
    rows: AsyncIterator[Row], form: Format, columns: Sequence[str], *, most: int, empty: str = "nothing"
) -> None:
    """Print rows as they come, without holding them all.

    Args:
        rows: each with the same members.
        form: how.
        columns: which members a table shows; JSON shows all.
        most: rows of a table; when there are more, stderr says so.
        empty: said on stderr instead of a table without rows.
    """
    if form is not Format.TABLE:
        writer = JsonWriter(form)
        async for row in rows:
            writer.write(row)
        writer.close()
        return
    held: list[Row] = []
    async for row in rows:
        if len(held) == most:
            typer.echo(f"only the first {most} are shown; --limit shows more, -o jsonl shows all", err=True)
            break
        held.append({column: row.get(column) for column in columns})
    show(held, form, columns, empty=empty)


class JsonWriter:
    """Writes rows as one JSON array, or each on a line of its own. In UTF-8, whatever the locale says.

    Args:
        form: json or jsonl.
        file: where to; stdout by default.
    """

    def __init__(self, form: Format, file: IO[bytes] | None = None) -> None:
        self._form, self._file = form, file
        self._rows = 0

    def write(self, row: Row) -> None:
        """Write one row."""
        import msgspec

        text = msgspec.json.encode(row)
        if self._form is Format.JSONL:
            self._put(text)
        else:
            pretty = msgspec.json.format(text, indent=2).replace(b"\n", b"\n  ")
            self._put((b",\n  " if self._rows else b"[\n  ") + pretty, end=b"")
        self._rows += 1

    def close(self) -> None:
        """End the array."""
        if self._form is Format.JSON:
            self._put(b"\n]" if self._rows else b"[]")

    def _put(self, text: bytes, end: bytes = b"\n") -> None:
        if self._file is not None:
            self._file.write(text + end)
        else:
            typer.echo(text + end, nl=False)


def print_table(rows: Sequence[Row], columns: Sequence[str], *, title: str | None = None) -> None:
    """Print a table as wide as it needs to be: nothing is cut off when the output is piped."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 10_000)
    console.print(table(rows, columns, title=title))


def table(rows: Sequence[Row], columns: Sequence[str], *, title: str | None = None) -> Any:
    """A table, to be printed or kept on the screen."""
    from rich import box
    from rich.table import Table

    drawn = Table(box=box.SIMPLE_HEAD, title=title, pad_edge=False, show_edge=False)
    for column in columns:
        numbers = all(_is_number(row.get(column)) for row in rows)
        drawn.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(_cell(row.get(column)) for column in columns))
    return drawn


def moment(seconds: float) -> str:
    """A wall-clock time, RFC 3339 in UTC."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (OverflowError, ValueError):  # somebody else wrote it, and no calendar reaches so far
        return f"{seconds:g}"


def shown(text: str) -> str:
    """The text with everything visible that would move a cursor, ring a bell or turn the line round."""
    return _UNSHOWABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _cell(value: Any) -> str:
    from rich.markup import escape

    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return escape(shown(", ".join(map(str, value)))) or "-"
        case _:
            return escape(shown(str(value)))


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
