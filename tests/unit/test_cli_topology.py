"""What the doctor thinks of how servers stand to each other."""

from streamq.cli import topology
from streamq.store.topology import ClusterView, Node, SentinelView


def statuses(findings):
    return [finding.status for finding in findings]


def replica(lag=0, state="online"):
    return {"connected_slaves": 1, "slave0": {"ip": "h", "port": 2, "state": state, "lag": lag}}


def test_one_server_is_enough():
    assert [f.detail for f in topology.standalone({"role": "master"})] == ["one server"]
    assert "1 replicas" in next(topology.standalone({"role": "master", "connected_slaves": 1})).detail
    assert list(topology.standalone({"role": "slave"})) == []  # told by another check
    assert list(topology.standalone({})) == []


def test_replicas_that_lag_are_told():
    assert statuses(topology.replicas(replica())) == ["ok"]
    assert statuses(topology.replicas(replica(lag=6))) == ["warn"]
    assert statuses(topology.replicas(replica(state="wait_bgsave"))) == ["warn"]
    assert statuses(topology.replicas({})) == []


def test_a_master_that_goes_on_alone_is_told():
    (finding,) = topology.min_replicas({"min-replicas-to-write": "0"})
    assert (finding.status, "min-replicas-to-write 1" in finding.cure) == ("warn", True)
    assert list(topology.min_replicas({"min-replicas-to-write": "1"})) == []
    assert list(topology.min_replicas({})) == []  # CONFIG GET is not allowed


def view(number=0, *, master="m:1", quorum=2, others=2, **replicas):
    return SentinelView(f"s:{number}", master, quorum, others, replicas or {"r": ""})


def test_sentinels_that_agree_are_well():
    (finding,) = topology.sentinels([view(n) for n in range(3)], "m:1")
    assert (finding.status, finding.detail) == ("ok", "master m:1, 3 sentinels, quorum 2")


def test_what_keeps_sentinels_from_a_failover_is_told():
    def told(*views, connected="m:1"):
        return [(f.status, f.detail) for f in topology.sentinels(views, connected) if f.status != "ok"]

    assert "nobody is left to agree" in told(view(others=0, quorum=1))[0][1]
    assert "too many must agree" in told(view(quorum=3))[0][1]
    assert "does not answer" in told(view(), SentinelView("s:9"))[0][1]
    assert "says that the master is m:2" in told(view(), view(1, master="m:2"))[0][1]
    assert "no replica is well" in told(SentinelView("s:0", "m:1", 2, 2, {}))[0][1]
    assert ["replica r" in detail for _, detail in told(view(r="it does not answer"))] == [True, False]
    assert told(SentinelView("s:9")) == [("warn", "s:9 does not answer, or does not know this master")]


def test_a_cluster_is_told_by_its_masters():
    good = Node("a:1", 8192, failed=False, replicas=["r:1"])
    lonely = Node("b:1", 8192, failed=False, replicas=[])
    dead = Node("c:1", 8192, failed=True, replicas=[])
    gone = Node("d:1", 0, failed=True, replicas=[])
    spare = Node("e:1", 0, failed=False, replicas=[])
    found = list(topology.cluster(ClusterView("ok", 0, [good, lonely, dead, gone, spare], {"a:1": ["mail", "sms"]})))
    assert statuses(found) == ["ok", "ok", "warn", "fail", "warn", "ok"]
    assert found[1].detail == "a:1: 8192 slots, 1 replicas; mail, sms"
    assert statuses(topology.cluster(ClusterView("fail", 7, [], {}))) == ["fail"]
    assert statuses(topology.cluster(ClusterView("ok", 7, [], {}))) == ["fail"]
