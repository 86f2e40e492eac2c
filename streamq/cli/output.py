"""What commands print: tables for people, JSON for programs. Data goes to stdout, everything else to stderr."""

import enum
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer


class Format(enum.StrEnum):
    """The forms of output."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


Output = Annotated[
    Format, typer.Option("-o", "--output", envvar="STREAMQ_OUTPUT", help="table, json (an array) or jsonl (a row a line).")
]

Row = Mapping[str, Any]


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
    import msgspec

    if form is Format.JSONL:
        for row in listed:
            typer.echo(msgspec.json.encode(row).decode())
    else:
        typer.echo(msgspec.json.format(msgspec.json.encode(listed), indent=2).decode())


def print_table(rows: Sequence[Row], columns: Sequence[str], *, title: str | None = None) -> None:
    """Print a table as wide as it needs to be: nothing is cut off when the output is piped."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 10_000)
    console.print(table(rows, columns, title=title))


def table(rows: Sequence[Row], columns: Sequence[str], *, title: str | None = None) -> Any:
    """A table, to be printed or kept on the screen."""
    from rich import box
    from rich.table import Table

    drawn = Table(box=box.SIMPLE_HEAD, title=title, pad_edge=False)
    for column in columns:
        numbers = all(isinstance(row.get(column), int | float) or row.get(column) is None for row in rows)
        drawn.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(_cell(row.get(column)) for column in columns))
    return drawn


def moment(seconds: float) -> str:
    """A wall-clock time, RFC 3339 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _cell(value: Any) -> str:
    from rich.markup import escape

    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        return escape(", ".join(map(str, value)))
    return escape(str(value))
