"""What ``streamq doctor`` thinks of how servers stand to each other. Pure: facts in, findings out."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from streamq.core.precautions import Finding
from streamq.store.topology import ClusterView, SentinelView

LAG = 5  # seconds without a word of a replica

CURE_MIN_REPLICAS = (
    "CONFIG SET min-replicas-to-write 1, and min-replicas-max-lag 2: a master that was cut off from its replicas then "
    "takes no more of what a failover would lose"
)


def standalone(info: Mapping[str, Any]) -> Iterator[Finding]:
    """One server, with or without replicas that nobody promotes."""
    if info.get("role") == "master":
        number = int(info.get("connected_slaves", 0))
        said = f"one server and {number} replicas, of which none takes over by itself" if number else "one server"
        yield Finding("topology", "ok", said)


def replicas(info: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether the replicas of a master keep up with it."""
    for number in range(int(info.get("connected_slaves", 0))):
        replica = info[f"slave{number}"]
        where, lag = f"{replica['ip']}:{replica['port']}", int(replica.get("lag", 0))
        well = replica["state"] == "online" and lag <= LAG
        cure = None if well else "see its log, and the network between the two"
        yield Finding("replica", "ok" if well else "warn", f"{where}: {replica['state']}, heard of {lag} s ago", cure)


def min_replicas(settings: Mapping[str, str]) -> Iterator[Finding]:
    """Whether a master that was cut off goes on accepting what a failover will lose."""
    if settings.get("min-replicas-to-write") == "0":
        yield Finding("replica", "warn", "a master goes on without its replicas", CURE_MIN_REPLICAS)


def sentinels(views: Sequence[SentinelView], connected: str) -> Iterator[Finding]:
    """Whether a failover would happen, and whether we are where the sentinels say.

    Args:
        views: what each sentinel of the URL says.
        connected: the master that we are connected to.
    """
    good = [view for view in views if view.master]
    for view in views:
        if not view.master:
            cure = "start it, or name another in the URL"
            yield Finding("sentinel", "warn", f"{view.address} does not answer, or does not know this master", cure)
        elif view.master != connected:
            said = f"{view.address} says that the master is {view.master}; we are connected to {connected}"
            yield Finding("sentinel", "warn", said, "wait for the failover to end, then see the log of that sentinel")
    if not good:
        return
    number, quorum = 1 + max(view.others for view in good), good[0].quorum
    cure = "run three sentinels, on three machines, with a quorum of two"
    said = f"master {connected}, {number} sentinels, quorum {quorum}"
    if number < 3:
        yield Finding("sentinel", "warn", f"{said}: nobody is left to agree on a failover when one fails", cure)
    elif quorum > number // 2 + 1:
        yield Finding("sentinel", "warn", f"{said}: too many must agree", cure)
    else:
        yield Finding("sentinel", "ok", said)
    known = {name: trouble for view in good for name, trouble in view.replicas.items()}
    for name, trouble in known.items():
        if trouble:
            yield Finding("sentinel", "warn", f"replica {name}: {trouble}", "see its log")
    if not any(not trouble for trouble in known.values()):
        yield Finding("sentinel", "warn", "no replica is well: nobody could take over", "give the master a replica")


def cluster(view: ClusterView) -> Iterator[Finding]:
    """Whether every slot is served, and would be when a master fails."""
    said = f"state {view.state}, {len(view.masters)} masters"
    if view.state != "ok" or view.uncovered:
        cure = "bring the failed nodes back, or redis-cli --cluster fix HOST:PORT"
        yield Finding("cluster", "fail", f"{said}, {view.uncovered} slots are served by nobody", cure)
    else:
        yield Finding("cluster", "ok", said)
    for node in view.masters:
        here = ", ".join(view.queues.get(node.address, ())) or "no queue"
        said = f"{node.address}: {node.slots} slots, {len(node.replicas)} replicas; {here}"
        if node.failed:
            yield Finding("cluster", "fail" if node.slots else "warn", f"{said}: it does not answer", "see its log")
        elif node.slots and not node.replicas:
            cure = "give it one: redis-cli --cluster add-node NEW HOST:PORT --cluster-slave"
            yield Finding("cluster", "warn", f"{said}: nobody would take over", cure)
        else:
            yield Finding("cluster", "ok", said)
