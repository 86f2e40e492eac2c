"""Entries as the protocol defines them, once more in Python: reading, carrying on, packing, dead letters."""

from tests.support import pack_fields

LEVELS = ("critical", "high", "normal", "low")
LEVEL_OF = {b"1": "critical", b"2": "high", b"3": "normal", b"4": "low"}
NUMBER_OF = {level: number for number, level in LEVEL_OF.items()}
CARRIED = (b"id", b"queue", b"priority", b"payload", b"metadata", b"signature")
COUNTERS = (b"retry_count", b"deliveries", b"held_since", b"alone")
ABOUT = (
    b"original_queue", b"original_id", b"original_entry", b"reason", b"error", b"traceback", b"failed_at",
    b"retry_count", b"deliveries", b"worker", b"fingerprint",
)  # fmt: skip


def read(flat):
    """The fields of an entry; None when nobody can say what it means."""
    fields = dict(zip(flat[::2], flat[1::2], strict=True)) if len(flat) % 2 == 0 and len(flat) <= 7000 else {}
    readable = 2 * len(fields) == len(flat) and b"payload" in fields and fields.get(b"priority", b"1") in LEVEL_OF
    return fields if readable else None


def carry(fields, level, entry, counters):
    """What a rewritten entry holds: signed bytes as they were, a name and a level for good, and these counters."""
    named = {b"id": b"e%b-%b" % (level.encode(), entry), b"priority": NUMBER_OF[level]} | fields
    kept = [(name, named[name]) for name in CARRIED if name in named]
    kept += [(name, counters[name]) for name in COUNTERS if counters.get(name) is not None]
    return [part for pair in kept for part in pair]


def counter(raw):
    return int(raw) if raw is not None and raw.isdigit() and len(raw) <= 16 else 0


def letter(flat, about):
    """A dead letter: the signed bytes as they were, what happened, and the bytes where they could not be read."""
    fields = read(flat)
    kept = [(name, fields[name]) for name in CARRIED if fields and name in fields]
    kept += [(name, about[name]) for name in ABOUT if name in about]
    if fields is None:
        kept.append((b"raw", pack_fields(flat)))
    return [part for name, value in kept if value for part in (name, value)]
