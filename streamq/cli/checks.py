"""What ``streamq doctor`` thinks of what it found. Pure: facts in, findings out."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from streamq.core.precautions import Finding

FLOOR = (7, 0)
SLOW, CLOCK_OFF = 0.010, 1.0  # seconds: of a round trip, of an offset
NEARLY_FULL, FULL = 0.8, 0.95  # of the memory there is
BACKPORTED = {(7, 0), (7, 2)}  # branches that distributions still mend without changing the number


class Hole(NamedTuple):
    """A hole in servers of some versions.

    Attributes:
        name: of the CVE.
        what: it is.
        grave: not only a warning.
        since: the first branch that has it.
        mended: by kind of server, the first good patch of each branch that has one. Later branches are good.
    """

    name: str
    what: str
    grave: bool
    since: tuple[int, int]
    mended: Mapping[str, Mapping[tuple[int, int], int]]


HOLES = (
    Hole(
        "CVE-2025-49844", "a Lua script can run code in the server", True, (0, 0),
        {
            "Redis": {(6, 2): 20, (7, 2): 11, (7, 4): 6, (8, 0): 4, (8, 2): 2},
            "Valkey": {(7, 2): 11, (8, 0): 6, (8, 1): 4},
        },
    ),
    Hole(  # needs client eviction (maxmemory-clients), which is off unless somebody turned it on
        "CVE-2026-23479", "unblocking a client can corrupt the server's memory", False, (7, 2),
        {
            "Redis": {(7, 2): 14, (7, 4): 9, (8, 2): 6, (8, 4): 3, (8, 6): 3},
            "Valkey": {(7, 2): 13, (8, 0): 9, (8, 1): 7, (9, 0): 4},
        },
    ),
)  # fmt: skip


def server_version(info: Mapping[str, Any]) -> tuple[str, str]:
    """The kind of server, and its version as it is written."""
    if "valkey_version" in info:
        return "Valkey", str(info["valkey_version"])
    return "Redis", str(info.get("redis_version", ""))


def versions(info: Mapping[str, Any]) -> Iterator[Finding]:
    """The server's version: the floor, and known holes."""
    kind, text = server_version(info)
    numbers = tuple(int(part) for part in text.split(".")[:3] if part.isdigit())
    if len(numbers) < 3:
        yield Finding("version", "warn", "unknown", f"streamq needs {kind} {FLOOR[0]}.{FLOOR[1]} or newer: allow INFO")
        return
    branch, patch = numbers[:2], numbers[2]
    if branch < FLOOR:
        yield Finding("version", "fail", f"{kind} {text}", "upgrade: streamq needs Redis 7.0, Valkey 7.2 or newer")
        return
    yield Finding("version", "ok", f"{kind} {text}")
    for hole in HOLES:
        mended = hole.mended[kind]
        if branch < hole.since or branch > max(mended) or patch >= mended.get(branch, patch + 1):  # type: ignore[arg-type]
            continue
        good = ", ".join(f"{major}.{minor}.{n}" for (major, minor), n in mended.items() if (major, minor) >= branch)
        if branch in BACKPORTED:
            cure = f"see that your distribution's package mends it, or upgrade to {kind} {good}"
            yield Finding("version", "warn", f"{hole.name} may be open: {hole.what}", cure)
        else:
            cure = f"upgrade to {kind} {good} or newer"
            yield Finding("version", "fail" if hole.grave else "warn", f"{hole.name}: {hole.what}", cure)


def role(info: Mapping[str, Any], *, clustered: bool) -> Iterator[Finding]:
    """Whether this server takes writes, and all of them."""
    if info.get("role") == "slave":
        cure = "name the primary, or let sentinels find it: redis+sentinel://HOST:26379/NAME/0"
        yield Finding("role", "fail", "this is a replica, which takes no writes", cure)
    if info.get("cluster_enabled") and not clustered:
        cure = "name it as one: redis+cluster://HOST:PORT"
        yield Finding("role", "fail", "this is a node of a Cluster, and holds only some of the queues", cure)


def memory(info: Mapping[str, Any]) -> Finding:
    """How much memory is left."""
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    room = limit or int(info.get("total_system_memory", 0))
    if not room:
        return Finding("memory", "warn", "unknown: INFO is not allowed", "allow INFO")
    said = f"{_mib(used)} used of {_mib(room)}" + ("" if limit else ", all that the machine has: maxmemory is not set")
    cure = "raise maxmemory, add workers, or lower max_length: a full Redis takes no new messages"
    if used > FULL * room:
        return Finding("memory", "fail", said, cure)
    return Finding("memory", "warn", said, cure) if used > NEARLY_FULL * room else Finding("memory", "ok", said)


def durability(
    wanted: Mapping[str, Sequence[str]], info: Mapping[str, Any], settings: Mapping[str, str], *, everysec: bool
) -> Iterator[Finding]:
    """Whether Redis can confirm what queues ask for: where it cannot, every publish ends in DurabilityUnconfirmed.

    Args:
        wanted: queues by what they ask for: ``fsync``, ``replica``.
        info: INFO.
        settings: CONFIG GET.
        everysec: the server's WAITAOF waits for the disk with ``appendfsync everysec``, too.
    """
    fsync, replica = wanted.get("fsync"), wanted.get("replica")
    if fsync:
        said, policy = f"durable: fsync for {', '.join(fsync)}", settings.get("appendfsync")
        kind, version = server_version(info)
        if kind == "Redis" and version.startswith(("7.0.", "7.1.")):
            yield Finding("durable", "fail", f"{said}: {kind} {version} has no WAITAOF", "Redis 7.2 or Valkey")
        elif not info.get("aof_enabled"):
            yield Finding("durable", "fail", f"{said}: there is no append-only file", "CONFIG SET appendonly yes")
        elif policy == "no" or (policy != "always" and not everysec):
            why = "never waits" if policy == "no" else f"{kind} {version} confirms before the disk has it"
            cure = "CONFIG SET appendfsync always, and the same in its configuration file"
            yield Finding("durable", "fail", f"{said}: appendfsync {policy or 'unknown'}: {why}", cure)
        else:
            yield Finding("durable", "ok", f"{said}: WAITAOF confirms it")
    if replica:
        said, there = f"durable: replica for {', '.join(replica)}", int(info.get("connected_slaves", 0))
        more = None if there else "give it a replica, or name another durability"
        yield Finding("durable", "ok" if there else "fail", f"{said}: {there} connected", more)


def idle_timeout(settings: Mapping[str, str], block: float) -> Finding:
    """Whether Redis hangs up on readers that wait."""
    text = settings.get("timeout")
    if text is None:
        return Finding(
            "timeout", "warn", "unknown: CONFIG GET is not allowed", "make sure that `timeout` is 0 in Redis"
        )
    if text == "0" or float(text) > block:
        return Finding("timeout", "ok", "Redis closes no waiting connection" if text == "0" else f"{text} s")
    return Finding("timeout", "fail", f"Redis closes connections that are idle for {text} s", "CONFIG SET timeout 0")


def latency(seconds: float) -> Finding:
    """How far away Redis is."""
    said = f"{seconds * 1000:.2f} ms a round trip"
    if seconds > SLOW:
        return Finding("latency", "warn", said, "run workers near their Redis: every message takes a few round trips")
    return Finding("latency", "ok", said)


def clock(offset: float) -> Finding:
    """Whether this machine and Redis agree on the time."""
    if abs(offset) < CLOCK_OFF:
        return Finding("clock", "ok", f"{abs(offset) * 1000:.0f} ms from that of Redis")
    said = f"this machine is {abs(offset):.1f} s {'ahead of' if offset > 0 else 'behind'} Redis"
    return Finding("clock", "warn", said, "run NTP on both: messages expire by this clock and become due by that one")


def signing(states: list[str], *, production: bool) -> Finding:
    """Whether anybody who reaches Redis can ask for work.

    Args:
        states: of the signing keys.
        production: whether unsigned messages are no choice.
    """
    cure = "streamq keys generate, and STREAMQ_SIGNING_KEYS on every machine"
    if not states:
        said = "no key: whoever can write to Redis can ask the workers for work"
        return Finding("signing", "fail" if production else "warn", said, cure)
    if "active" not in states:
        return Finding("signing", "warn", "no key is active: what is published here is not signed", "make one active")
    return Finding("signing", "ok", ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)))


def timeouts(read: float, block: float) -> Finding:
    """Whether a read is given up before Redis answers it."""
    said = f"a read blocks {block:g} s and may take {read:g} s"
    if read <= block:
        return Finding("socket timeout", "fail", said, "raise socket_timeout above worker.block")
    return Finding("socket timeout", "ok", said)


def beats(beat_interval: float, silent_after: float, lease: float) -> Finding:
    """Whether a worker that lives is taken for dead.

    Args:
        beat_interval: seconds between two beats.
        silent_after: seconds without one that mean death.
        lease: the shortest lease of a queue, seconds.
    """
    beat = min(beat_interval, lease / 4)
    said = f"a beat every {beat:g} s, dead after {silent_after:g} s, lease {lease:g} s"
    if silent_after < 3 * beat:
        return Finding("beat", "warn", said, "raise worker.silent_after to three beats: one that is late must not kill")
    return Finding("beat", "ok", said)


def _mib(size: int) -> str:
    return f"{size / 1024**2:.0f} MiB"
