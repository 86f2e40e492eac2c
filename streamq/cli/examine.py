"""How ``streamq doctor`` finds out: it asks Redis, the settings and, in a process of its own, the app."""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from streamq.cli import checks, topology
from streamq.core import precautions
from streamq.core.errors import RedisUnavailable
from streamq.core.precautions import Finding
from streamq.core.signing import KeyRing
from streamq.store.durability import everysec_is_true
from streamq.store.inspect import unhealthy
from streamq.store.server import Server, ServerFacts
from streamq.store.topology import ask_each_sentinel, connected_master, look_at_cluster

if TYPE_CHECKING:
    from streamq.session import Session
    from streamq.settings import Settings

IMPORT_TIMEOUT = 60.0  # seconds that the app may take to be imported


async def server_findings(session: "Session") -> AsyncIterator[Finding]:
    """The server: where, which, and how it is set up."""
    located, server = session.located, Server(session.connections, session.keyspace)
    embedded = located.server is not None
    cure = "for production name a server of your own: --redis-url, STREAMQ_REDIS_URL, REDIS_URL" if embedded else None
    where = f"{located.url} ({'embedded; ' if embedded else ''}from {located.origin})"
    yield Finding("redis", "warn" if embedded and session.settings.production else "ok", where, cure)
    yield checks.latency(await server.latency())
    facts = await server.facts()
    for finding in (
        *checks.versions(facts.info),
        *checks.role(facts.info, clustered=session.connections.clustered),
        *await _topology(session, facts),
        precautions.eviction(facts.info, facts.settings),
        checks.memory(facts.info),
        *precautions.persistence(facts.info, facts.settings),
        *_durability(session, facts),
        checks.idle_timeout(facts.settings, session.connections.block),
    ):
        yield finding
    yield checks.clock(await server.clock_offset())
    limits = server.timeouts()
    yield checks.timeouts(limits.read, limits.block)


async def _topology(session: "Session", facts: ServerFacts) -> list[Finding]:
    connections, info = session.connections, facts.info
    if connections.clustered:
        names = sorted({*await session.inspector.names(), *session.settings.queues})
        view = await look_at_cluster(connections, session.keyspace, names)
        hint = topology.min_replicas(facts.settings) if any(node.replicas for node in view.masters) else ()
        return [*topology.cluster(view), *hint]
    if connections.url.kind == "sentinel":
        views = await ask_each_sentinel(connections)
        known = topology.sentinels(views, await connected_master(connections))
        return [*known, *topology.replicas(info), *topology.min_replicas(facts.settings)]
    return [*topology.standalone(info), *topology.replicas(info)]


def _durability(session: "Session", facts: ServerFacts) -> Iterator[Finding]:
    config = session.settings.config
    wanted: dict[str, list[str]] = {}
    for name, queue in (*config.queues.items(), ("queues that are not configured", config.queue("default"))):
        wanted.setdefault(queue.durable, []).append(name)
    kind, version = checks.server_version(facts.info)
    everysec = everysec_is_true(kind.lower(), version)
    return checks.durability(wanted, facts.info, facts.settings, everysec=everysec)


def settings_findings(settings: "Settings") -> Iterator[Finding]:
    """The configuration, which has been read already, and what it means together."""
    path = settings.config_path
    yield Finding("config", "ok", str(path) if path else "no config/queues.yaml: the defaults hold")
    states = [str(key.state) for key in KeyRing.parse(settings.signing_keys or "").keys]
    yield checks.signing(states, production=settings.production)
    worker, queues = settings.config.worker, settings.config.queues.values()
    lease = min((queue.lease for queue in queues), default=settings.config.queue("default").lease)
    yield checks.beats(worker.beat_interval, worker.silent_after, lease)


async def queue_findings(session: "Session", queues: Sequence[str]) -> AsyncIterator[Finding]:
    """The queues: what is wrong with each, or one line when nothing is."""
    names = list(queues) or sorted({*await session.inspector.names(), *session.settings.queues})
    asked = names or [*session.settings.config.queues, "default"][:1]
    for check, look in _LOOKS.items():
        found = {name: await _look(session, check, look, name) for name in (asked if check == "rights" else names)}
        for findings in found.values():
            for finding in findings:
                yield finding
        if not any(found.values()):
            said = f"{len(found)} queues: {', '.join(found)}" if found else "no queue was used yet"
            yield Finding(check, "ok", said)
        if check == "key types":  # about these nothing else can be said
            names = [name for name in names if not found[name]]


async def _look(session: "Session", check: str, look: "Look", queue: str) -> list[Finding]:
    try:
        return await look(session, queue)
    except RedisUnavailable as error:
        return [Finding(check, "fail", f"{queue}: {error}", "give this user the rights of a worker, or look there")]


async def _rights(session: "Session", queue: str) -> list[Finding]:
    refused = await Server(session.connections, session.keyspace).refused(queue)
    cure = f"ACL SETUSER USER ~{session.keyspace.prefix}:* ~{{{session.keyspace.prefix}:* and + before each of them"
    return [Finding("rights", "fail", f"{queue}: this user may not {', '.join(refused)}", cure)] if refused else []


async def _key_types(session: "Session", queue: str) -> list[Finding]:
    wrong = await Server(session.connections, session.keyspace).wrong_types(queue)
    cure = "somebody else uses this name: choose another redis.prefix, or RENAME their key"
    return [
        Finding("key types", "fail", f"{key} holds a {found}, and should hold a {expected}", cure)
        for key, (found, expected) in wrong.items()
    ]


async def _ids(session: "Session", queue: str) -> list[Finding]:
    cure = "RENAME it, let a worker make it anew, and publish again what lies in the old one"
    return [
        Finding("stream ids", "fail", f"{stream} takes no more messages: its last entry has the highest id", cure)
        for stream in await Server(session.connections, session.keyspace).exhausted(queue)
    ]


async def _groups(session: "Session", queue: str) -> list[Finding]:
    expected = session.settings.config.queue(queue).consumer_group
    found = []
    for stream, names in (await Server(session.connections, session.keyspace).groups(queue)).items():
        for name in names:
            if name != expected:
                what = f"{stream} has a group {name!r} beside {expected!r}: each of them gets every message"
                cure = f"consumer_group: {name} for {queue}, or XGROUP DESTROY {stream} {name}"
                found.append(Finding("groups", "fail", what, cure))
    return found


async def _workers(session: "Session", queue: str) -> list[Finding]:
    workers = await session.inspector.workers(queue)
    cure = f"any worker takes it over: streamq worker --queue {queue}"
    return [
        Finding("workers", "warn", f"{queue}: {worker.consumer} is silent and holds {worker.pending} messages", cure)
        for worker in workers
        if worker.pending and not worker.alive
    ]


async def _health(session: "Session", queue: str) -> list[Finding]:
    (stats,) = await session.inspector.stats([queue])
    cure = f"streamq worker --queue {queue}, more of them or with more --concurrency"
    said = unhealthy(stats, session.settings.config.queue(queue))
    return [Finding("health", "warn", f"{queue}: {text}", cure) for text in said]


async def _books(session: "Session", queue: str) -> list[Finding]:
    seen = await session.auditor.queue(queue)
    if not (seen.imbalance or seen.body_imbalance or seen.deleted_streams):
        return []
    what = f"{queue}: messages left or came outside the protocol (imbalance {seen.imbalance:+})"
    return [Finding("books", "warn", what, f"streamq audit {queue}")]


Look = Callable[["Session", str], Awaitable[list[Finding]]]
_LOOKS: dict[str, Look] = {
    "rights": _rights,
    "key types": _key_types,
    "stream ids": _ids,
    "groups": _groups,
    "workers": _workers,
    "health": _health,
    "books": _books,
}


def handlers(app: str | None) -> Finding:
    """Whether the app can be imported. In a process of its own: what it does while imported is its own business."""
    import subprocess

    import msgspec

    command = [sys.executable, "-m", "streamq.cli.probe", *([app] if app else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return Finding("handlers", "fail", f"the import of the app takes over {IMPORT_TIMEOUT:g} s", "import less")
    try:
        answer = msgspec.json.decode(done.stdout.splitlines()[-1], type=dict[str, str])
    except (IndexError, msgspec.DecodeError):
        said = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        return Finding("handlers", "fail", f"the import of the app ended the process: {said}", "see what it does")
    cure = {"ok": None, "warn": "only a worker needs one: --app MODULE:NAME"}.get(answer["status"], "mend the import")
    return Finding("handlers", answer["status"], answer["detail"], cure)  # type: ignore[arg-type]
