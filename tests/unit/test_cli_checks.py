"""What ``streamq doctor`` thinks of what it found."""

import pytest

from streamq.cli import checks
from streamq.core import precautions


def statuses(findings):
    return [finding.status for finding in findings]


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"redis_version": "6.2.14"}, ["fail"]),
        ({"redis_version": "7.0.15"}, ["ok", "warn"]),  # Debian mends it without changing the number
        ({"redis_version": "7.2.4"}, ["ok", "warn", "warn"]),
        ({"redis_version": "7.2.11"}, ["ok", "warn"]),
        ({"redis_version": "7.2.14"}, ["ok"]),
        ({"redis_version": "7.4.5"}, ["ok", "fail", "warn"]),
        ({"redis_version": "7.4.6"}, ["ok", "warn"]),
        ({"redis_version": "8.0.3"}, ["ok", "fail", "warn"]),
        ({"redis_version": "8.2.1"}, ["ok", "fail", "warn"]),
        ({"redis_version": "8.2.3"}, ["ok", "warn"]),
        ({"redis_version": "8.4.2"}, ["ok", "warn"]),
        ({"redis_version": "8.6.2"}, ["ok", "warn"]),
        ({"redis_version": "8.6.3"}, ["ok"]),
        ({"redis_version": "8.8.0"}, ["ok"]),
        ({"redis_version": "7.2.4", "valkey_version": "8.0.5"}, ["ok", "fail", "warn"]),
        ({"redis_version": "7.2.4", "valkey_version": "8.1.4"}, ["ok", "warn"]),
        ({"redis_version": "7.2.4", "valkey_version": "9.0.4"}, ["ok"]),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.2"}, ["ok"]),
        ({}, ["warn"]),
        ({"redis_version": "unstable"}, ["warn"]),
    ],
)
def test_versions_are_judged_by_their_floor_and_known_holes(info, expected):
    findings = list(checks.versions(info))
    assert statuses(findings) == expected
    assert all(finding.cure for finding in findings if finding.status != "ok")


def test_a_cure_names_only_versions_that_are_newer():
    _, hole = checks.versions({"redis_version": "8.4.2"})
    assert "8.4.3, 8.6.3" in hole.cure
    assert "7.4" not in hole.cure


def test_a_replica_or_a_part_of_a_cluster_is_no_place_for_queues():
    assert statuses(checks.role({"role": "slave"}, clustered=False)) == ["fail"]
    assert statuses(checks.role({"role": "master", "cluster_enabled": 1}, clustered=False)) == ["fail"]
    assert statuses(checks.role({"role": "master", "cluster_enabled": 1}, clustered=True)) == []
    assert statuses(checks.role({"role": "master", "cluster_enabled": 0}, clustered=False)) == []


@pytest.mark.parametrize(
    ("info", "settings", "expected"),
    [
        ({"maxmemory_policy": "noeviction"}, {}, "ok"),
        ({}, {"maxmemory-policy": "noeviction"}, "ok"),
        ({"maxmemory_policy": "volatile-lru"}, {}, "warn"),
        ({"maxmemory_policy": "allkeys-lru"}, {}, "fail"),
        ({}, {}, "warn"),
    ],
)
def test_redis_must_not_evict(info, settings, expected):
    assert precautions.eviction(info, settings).status == expected


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"used_memory": 10, "maxmemory": 100}, "ok"),
        ({"used_memory": 85, "maxmemory": 100}, "warn"),
        ({"used_memory": 99, "maxmemory": 100}, "fail"),
        ({"used_memory": 99, "maxmemory": 0, "total_system_memory": 1000}, "ok"),
        ({"used_memory": 99, "maxmemory": 0, "total_system_memory": 100}, "fail"),
        ({}, "warn"),
    ],
)
def test_memory_must_have_room(info, expected):
    assert checks.memory(info).status == expected


@pytest.mark.parametrize(
    ("info", "settings", "expected"),
    [
        ({"aof_enabled": 1}, {"appendfsync": "always"}, ["ok"]),
        ({"aof_enabled": 1}, {}, ["ok"]),
        ({"aof_enabled": 1}, {"appendfsync": "no"}, ["warn"]),
        ({"aof_enabled": 0}, {"save": "3600 1"}, ["warn"]),
        ({"aof_enabled": 0}, {"save": ""}, ["warn"]),
        ({"aof_enabled": 0}, {}, ["warn"]),
        ({}, {}, ["warn"]),
        ({"aof_enabled": 1, "aof_last_write_status": "err"}, {}, ["ok", "fail"]),
        ({"aof_enabled": 1, "rdb_last_bgsave_status": "err"}, {}, ["ok", "fail"]),
    ],
)
def test_what_survives_a_restart_is_told(info, settings, expected):
    assert statuses(precautions.persistence(info, settings)) == expected


VALKEY, REDIS_8 = {"valkey_version": "9.1.2", "aof_enabled": 1}, {"redis_version": "8.2.3", "aof_enabled": 1}
REDIS_7 = {"redis_version": "7.0.15", "aof_enabled": 1}


@pytest.mark.parametrize(
    ("wanted", "info", "settings", "everysec", "expected"),
    [
        ({"memory": ["a"]}, {}, {}, False, []),
        ({"fsync": ["a"]}, REDIS_8, {"appendfsync": "everysec"}, True, ["ok"]),
        ({"fsync": ["a"]}, REDIS_8, {}, True, ["ok"]),
        ({"fsync": ["a"]}, REDIS_8, {"appendfsync": "no"}, True, ["fail"]),
        ({"fsync": ["a"]}, VALKEY, {"appendfsync": "always"}, False, ["ok"]),
        ({"fsync": ["a"]}, VALKEY, {"appendfsync": "everysec"}, False, ["fail"]),
        ({"fsync": ["a"]}, VALKEY, {}, False, ["fail"]),
        ({"fsync": ["a"]}, VALKEY | {"aof_enabled": 0}, {"appendfsync": "always"}, False, ["fail"]),
        ({"fsync": ["a"]}, REDIS_7, {"appendfsync": "always"}, False, ["fail"]),
        ({"replica": ["a"]}, {"connected_slaves": 1}, {}, False, ["ok"]),
        ({"replica": ["a"]}, {"connected_slaves": 0}, {}, False, ["fail"]),
        ({"replica": ["a"], "fsync": ["b"]}, REDIS_8, {}, True, ["ok", "fail"]),
    ],
    ids=str,
)
def test_what_queues_ask_for_must_be_possible(wanted, info, settings, everysec, expected):
    """Else every publish would tell of it."""
    findings = list(checks.durability(wanted, info, settings, everysec=everysec))
    assert statuses(findings) == expected
    assert all(finding.cure for finding in findings if finding.status == "fail")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"timeout": "0"}, "ok"), ({"timeout": "300"}, "ok"), ({"timeout": "2"}, "fail"), ({}, "warn")],
)
def test_redis_must_not_hang_up_on_waiting_readers(settings, expected):
    assert checks.idle_timeout(settings, block=2.0).status == expected


def test_distance_and_clocks_are_judged_by_their_limits():
    assert checks.latency(0.0001).status == "ok"
    assert checks.latency(0.05).status == "warn"
    assert checks.clock(-0.9).status == "ok"
    assert "ahead of" in checks.clock(1.5).detail
    assert "behind" in checks.clock(-1.5).detail
    assert checks.clock(1.5).status == "warn"


def test_keys_are_wanted_and_in_production_needed():
    assert checks.signing([], production=False).status == "warn"
    assert checks.signing([], production=True).status == "fail"
    assert checks.signing(["accepted"], production=True).status == "warn"
    assert checks.signing(["active", "accepted", "accepted"], production=True).detail == "1 active, 2 accepted"


def test_times_must_leave_room_for_each_other():
    assert checks.timeouts(4.0, 2.0).status == "ok"
    assert checks.timeouts(2.0, 2.0).status == "fail"
    assert checks.beats(2.5, 12.0, 30.0).status == "ok"
    assert checks.beats(5.0, 12.0, 30.0).status == "warn"
    assert checks.beats(5.0, 12.0, 4.0).status == "ok"  # a short lease makes the beat shorter
