"""Waiting until what was written would survive: on the disk of its Redis, or on a replica.

WAITAOF and WAIT speak for what *their own connection* wrote last, so they follow the script on its connection, to the
same node, in one batch. Between them stands a write of ours that changes nothing: a script that finds a duplicate
writes nothing, and a connection that wrote nothing is told that all is well. What stands in the append-only file, or in
the replication stream, before that write is covered with it, whoever wrote it.

WAITAOF is not always true. With ``appendfsync everysec`` Valkey (seen on 9.1.2) and Redis 7.4 answer it before anything
is on the disk: the file counts as synced whenever its last fsync was less than a second ago. Redis 8.0 mended it
(redis/redis#13793). Elsewhere its answer counts only with ``appendfsync always``. See docs/durability.md.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from redis import exceptions

from streamq.store.calls import Calls
from streamq.store.keys import QueueKeys
from streamq.store.outages import redis_errors
from streamq.store.replies import pairs, text
from streamq.store.scripts import Script

CONFIRM_WITHIN = 4.0  # seconds that Redis gets to confirm: the disk needs one or two; below what a command may take
TRUE_EVERYSEC = (8, 0)  # Redis from here on waits for the disk with `appendfsync everysec`, too

CURE_AOF = "CONFIG SET appendonly yes, and the same in its configuration file"
CURE_FSYNC = "CONFIG SET appendfsync always, and the same in its configuration file"


async def run_durably(
    calls: Calls, script: Script, keys: QueueKeys, args: Sequence[Any], extra: Sequence[str],
    *, durable: Literal["replica", "fsync"],
) -> tuple[Any, str]:  # fmt: skip
    """Run a script and wait until what it wrote is durable.

    Args:
        calls: the way to Redis.
        script: what to run.
        keys: of its queue.
        args: its ARGV.
        extra: its keys behind those of the queue.
        durable: what to wait for.

    Returns:
        The script's reply, and why it is not durable: "" when it is.

    Raises:
        RedisUnavailable: Redis did not answer, or refused the script.
    """
    run = ("EVAL", script.text, *script.command(keys, args, extra))  # by its digest it might be sent in vain
    mark = ("HINCRBY", keys.ledger, "accepted", 0)
    if durable == "fsync":
        about = (("HELLO",), ("CONFIG", "GET", "appendfsync"))
        wait: tuple[Any, ...] = ("WAITAOF", 1, 0, round(CONFIRM_WITHIN * 1000))
        *found, reply, marked, waited = await calls.together(keys.ledger, *about, run, mark, wait)
        doubt = _not_on_disk(found[0], found[1], waited)
    else:
        # Nobody waits in vain: without any replica the answer is known.
        (role,) = await calls.together(keys.ledger, ("ROLE",))
        alone = not isinstance(role, Exception) and not role[2]
        wait = ("WAIT", 1, 1 if alone else round(CONFIRM_WITHIN * 1000))
        reply, marked, waited = await calls.together(keys.ledger, run, mark, wait)
        doubt = _not_on_replica(waited, alone=alone)
    if isinstance(reply, Exception):
        with redis_errors():
            raise reply
    if isinstance(marked, Exception):
        doubt = f"Redis did not take the write that is waited for ({marked})"
    return reply, doubt


def everysec_is_true(server: str, version: str) -> bool:
    """Whether WAITAOF waits for the disk with ``appendfsync everysec``.

    Args:
        server: "redis" or "valkey".
        version: like "8.2.3".
    """
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    return server == "redis" and numbers >= TRUE_EVERYSEC


def _not_on_disk(hello: Any, setting: Any, waited: Any) -> str:
    if isinstance(waited, Exception):
        return _refused("WAITAOF", waited)
    if waited[0] < 1:
        return (
            f"the disk of Redis did not confirm it within {CONFIRM_WITHIN:g} s: look at its load, and at appendfsync, "
            f"which must not be `no`"
        )
    about = _map(hello)
    server, version = about.get("server", "this server"), about.get("version", "")
    if everysec_is_true(server, version):
        return ""
    fsync = _map(setting).get("appendfsync")
    if fsync == "always":
        return ""
    why = "allow CONFIG GET, and have appendfsync always" if fsync is None else CURE_FSYNC
    return f"{server} {version} confirms WAITAOF before the disk has it unless appendfsync is always: {why}"


def _not_on_replica(waited: Any, *, alone: bool) -> str:
    if isinstance(waited, Exception):
        return _refused("WAIT", waited)
    if waited >= 1:
        return ""
    if alone:
        return "no replica is connected to this Redis: give it one, or ask for durable: memory or fsync"
    return f"no replica confirmed it within {CONFIRM_WITHIN:g} s: look at its link (INFO replication) and its load"


def _refused(command: str, error: Exception) -> str:
    said = str(error)
    if "appendonly" in said:
        return f"Redis keeps no append-only file: {CURE_AOF}"
    if isinstance(error, exceptions.NoPermissionError):
        return f"this user may not send {command}: ACL SETUSER USER +{command.lower()}"
    if "unknown command" in said:
        return f"{command} needs Redis 7.2 or Valkey, and this server has none: upgrade it, or ask for less"
    return f"Redis refused {command}: {said}"


def _map(reply: Any) -> Mapping[str, str]:
    """A map as text; empty where Redis refused to tell."""
    return {} if isinstance(reply, Exception) else {text(key): text(value) for key, value in pairs(reply)}
