"""What the commands of ``streamq dlq`` share: which letters are meant, and how one is written."""

import base64
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamq.cli.options import duration, scoped
from streamq.cli.output import moment, shown
from streamq.cli.run import NOT_FOUND, fail

if TYPE_CHECKING:
    from collections.abc import Iterable

    from streamq.store.dead_letters import DeadLetter, Filter

option = scoped("DLQ")

Ids = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="Only these: the letter's id, or its message's.")
]
Queue = Annotated[str | None, option("--queue", help="Only those that died in this queue.")]
Why = Annotated[str | None, option("--reason", help="Only those with this reason, like max_retries or rejected.")]
Type = Annotated[str | None, option("--type", help="Only those whose payload has this type.")]
Older = Annotated[
    float | None,
    option("--older-than", parser=duration, metavar="DURATION", help="Only those that died so long ago: 1h."),
]
Newer = Annotated[
    float | None,
    option("--newer-than", parser=duration, metavar="DURATION", help="Only those that died within this time: 1d."),
]

TEXTS = ("original_queue", "original_id", "original_entry", "reason", "error", "traceback", "worker", "fingerprint")
SIGNED = ("id", "queue", "priority", "payload", "metadata", "signature", "raw")


def filter_from(
    ids: list[str] | None, queue: str | None, reason: str | None, type: str | None, older: float | None,
    newer: float | None,
) -> "Filter":  # fmt: skip
    """The letters that the options mean."""
    from streamq.core.outcome import Reason
    from streamq.core.values import one_of
    from streamq.store.dead_letters import Filter

    if reason is not None and reason not in set(Reason):
        raise typer.BadParameter(f"--reason {reason!r} does not exist; there are {one_of(Reason)}")
    return Filter(
        queue=queue, reason=reason, type=type, older_than=older, newer_than=newer, ids=frozenset(ids or ())
    )  # fmt: skip


def found_ids(letter: "DeadLetter") -> set[str]:
    """The names by which somebody may have asked for a letter."""
    return {letter.dlq_id, letter.text("original_id")}


def report_missing(missing: "Iterable[str]") -> None:
    """Exit with 4 when somebody asked for letters that are not there."""
    names = sorted(missing)
    if names:
        fail(f"no such dead letter: {', '.join(names)} (replayed or purged already?)", NOT_FOUND)


def described(letter: "DeadLetter") -> dict[str, Any]:
    """A letter as a row: the fields of the protocol, readable; the signed ones exactly as they are."""
    held = {name: as_json(letter.fields.get(name.encode())) for name in (*TEXTS, *SIGNED)}
    return {
        "dlq_id": letter.dlq_id,
        **{name: held[name] for name in TEXTS},
        "failed_at": moment(letter.failed_at) if letter.failed_at else None,
        "retry_count": letter.count("retry_count"),
        "deliveries": letter.count("deliveries"),
        "type": letter.type,
        **{name: held[name] for name in SIGNED},
    }


def exported(letter: "DeadLetter") -> dict[str, Any]:
    """A letter with every field byte for byte: text where it is UTF-8, else ``{"base64": ...}``."""
    fields = {name.decode(errors="backslashreplace"): as_json(value) for name, value in letter.fields.items()}
    return {**fields, "dlq_id": letter.dlq_id}


def as_json(raw: bytes | None) -> Any:
    """Bytes in a form that JSON can carry and that can be turned back exactly."""
    if raw is None:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}


def pretty(letter: "DeadLetter") -> str:
    """A whole letter, to be read."""
    row = described(letter)
    blocks = {name: row.pop(name) for name in ("payload", "metadata", "error", "traceback", "raw")}
    width = max(map(len, row))
    lines = [f"{name:{width}}  {value}" for name, value in row.items() if value is not None]
    for name, value in blocks.items():
        if value is not None:
            lines += ["", f"{name}:", *(f"  {line}" for line in _readable(value).splitlines())]
    return "\n".join(map(shown, lines))


def _readable(value: Any) -> str:
    import msgspec

    from streamq.core.codec import DECODE_ERRORS

    if isinstance(value, dict):
        return f"{value['base64']}  (base64: it is not UTF-8)"
    try:
        msgspec.json.decode(value)
        return str(msgspec.json.format(value, indent=2))
    except DECODE_ERRORS:
        return str(value)
