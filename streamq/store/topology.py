"""How the servers stand to each other: who is the master, who would take over, which node has which queue."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.crc import key_slot

from streamq.store.clients import ask_sentinels
from streamq.store.connection import Connections
from streamq.store.keys import Keyspace

SLOTS = 16_384


class SentinelView(NamedTuple):
    """What one sentinel says.

    Attributes:
        address: of the sentinel.
        master: where it believes the master to be; empty when it does not answer, or knows no such service.
        quorum: sentinels that must agree before a master counts as dead.
        others: sentinels that it knows beside itself.
        replicas: by address, what is wrong with each; empty when nothing is.
    """

    address: str
    master: str = ""
    quorum: int = 0
    others: int = 0
    replicas: Mapping[str, str] = {}


class Node(NamedTuple):
    """A master of a Cluster.

    Attributes:
        address: host and port.
        slots: how many it serves.
        failed: the others do not hear from it.
        replicas: those that are well and may take over.
    """

    address: str
    slots: int
    failed: bool
    replicas: Sequence[str]


class ClusterView(NamedTuple):
    """A Cluster as one of its nodes sees it.

    Attributes:
        state: ``ok`` or ``fail``.
        uncovered: slots that nobody serves.
        masters: those that have slots, or should.
        queues: by the address of a master, the queues that lie there.
    """

    state: str
    uncovered: int
    masters: Sequence[Node]
    queues: Mapping[str, Sequence[str]]


async def ask_each_sentinel(connections: Connections) -> list[SentinelView]:
    """What each sentinel of the URL says. One that does not answer is among them, without a master."""
    url = connections.url
    return [await _ask(host, port, url.service) for host, port in url.hosts]


async def connected_master(connections: Connections) -> str:
    """Where our connections behind sentinels lead."""
    await connections.execute("PING")
    return _address(*connections.commands.connection_pool.master_address)


async def look_at_cluster(connections: Connections, keyspace: Keyspace, queues: Sequence[str]) -> ClusterView:
    """A Cluster, and where queues lie in it.

    Args:
        connections: how to reach it.
        keyspace: how keys are spelled.
        queues: their names.

    Raises:
        RedisUnavailable: it does not answer, or may not be asked.
    """
    info = await connections.execute("CLUSTER INFO")
    nodes = await connections.execute("CLUSTER NODES")
    masters, owners = [], {}
    for address, about in nodes.items():
        if "master" not in about["flags"] or "handshake" in about["flags"]:
            continue
        ranges = [(int(first), int(last)) for first, last in ((*part, part[0])[:2] for part in about["slots"])]
        owners.update(dict.fromkeys((slot for first, last in ranges for slot in range(first, last + 1)), address))
        replicas = [name for name, other in nodes.items() if other["master_id"] == about["node_id"] and _is_heir(other)]
        slots = sum(last - first + 1 for first, last in ranges)
        masters.append(Node(address, slots, not _is_well(about), sorted(replicas)))
    placed: dict[str, list[str]] = {}
    for queue in queues:
        placed.setdefault(owners.get(key_slot(keyspace.queue(queue).normal.encode()), "nobody"), []).append(queue)
    return ClusterView(info["cluster_state"], SLOTS - len(owners), masters, placed)


async def _ask(host: str, port: int, service: str) -> SentinelView:
    where = _address(host, port)
    client: Any = redis.asyncio.Redis(host=host, port=port, **ask_sentinels(Retry))
    try:
        with contextlib.suppress(exceptions.RedisError, OSError):
            about = (await client.sentinel_masters()).get(service)
            if about is None:
                return SentinelView(where)
            replicas = await client.sentinel_slaves(service)
            return SentinelView(
                where,
                _address(about["ip"], about["port"]),
                about["quorum"],
                about["num-other-sentinels"],
                {_address(replica["ip"], replica["port"]): _trouble(replica) for replica in replicas},
            )
        return SentinelView(where)
    finally:
        await client.aclose()


def _trouble(replica: Mapping[str, Any]) -> str:
    if replica["is_sdown"] or replica["is_odown"] or replica["is_disconnected"]:
        return "it does not answer"
    if replica["master-link-status"] != "ok":
        return "it has lost its master"
    return ""


def _is_well(node: Mapping[str, Any]) -> bool:
    return {"fail", "fail?"}.isdisjoint(node["flags"].split(","))


def _is_heir(node: Mapping[str, Any]) -> bool:
    return _is_well(node) and "nofailover" not in node["flags"]


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
