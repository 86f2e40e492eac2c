"""What a server must be set up for, or messages get lost: told by ``streamq doctor`` and at the start of a worker."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

Status = Literal["ok", "warn", "fail"]


class Finding(NamedTuple):
    """What somebody thinks of one thing, and the cure."""

    check: str
    status: Status
    detail: str
    cure: str | None = None


def eviction(info: Mapping[str, Any], settings: Mapping[str, str]) -> Finding:
    """Whether Redis may throw our keys away when memory is short."""
    policy = str(info.get("maxmemory_policy") or settings.get("maxmemory-policy") or "")
    cure = "CONFIG SET maxmemory-policy noeviction, and the same in its configuration file"
    if not policy:
        return Finding("eviction", "warn", "unknown: INFO and CONFIG GET are not allowed", f"make sure of it: {cure}")
    if policy == "noeviction":
        return Finding("eviction", "ok", "maxmemory-policy noeviction")
    if policy.startswith("volatile"):
        return Finding("eviction", "warn", f"{policy}: when memory is short, duplicates are not recognised", cure)
    return Finding("eviction", "fail", f"{policy}: when memory is short, whole queues are deleted without a word", cure)


def persistence(info: Mapping[str, Any], settings: Mapping[str, str]) -> Iterator[Finding]:
    """What survives a restart of Redis."""
    cure = "CONFIG SET appendonly yes, and the same in its configuration file"
    if "aof_enabled" not in info:
        yield Finding("persistence", "warn", "unknown: INFO is not allowed", f"make sure of it: {cure}")
        return
    if info["aof_enabled"]:
        fsync = settings.get("appendfsync", "everysec")
        risk = {"always": "nothing is lost", "everysec": "a power cut may take the last second"}
        status: Status = "ok" if fsync in risk else "warn"
        said = f"append-only file, fsync {fsync}: {risk.get(fsync, 'a power cut may take half a minute')}"
        yield Finding("persistence", status, said, None if fsync in risk else "CONFIG SET appendfsync everysec")
    elif settings.get("save"):
        yield Finding("persistence", "warn", f"snapshots alone (save {settings['save']}): a crash loses minutes", cure)
    else:
        what = "none" if "save" in settings else "no append-only file"
        yield Finding("persistence", "warn", f"{what}: a restart of Redis may lose every message", cure)
    for name, what in (("aof_last_write_status", "the append-only file"), ("rdb_last_bgsave_status", "the snapshot")):
        if info.get(name, "ok") != "ok":
            yield Finding("persistence", "fail", f"writing {what} failed", "see the log of Redis: a full disk, a right")
