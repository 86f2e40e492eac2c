"""Clients of redis-py for each kind of URL, with our timeouts and without its repetitions."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import redis
import redis.asyncio
from redis.asyncio.cluster import ClusterNode as AsyncClusterNode
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.retry import Retry as SyncRetry

from streamq.store.masters import SENTINEL_TIMEOUT

if TYPE_CHECKING:
    from streamq.store.url import RedisURL

AsyncClient = Any  # redis.asyncio.Redis or RedisCluster: their stubs disagree on every command
SyncClient = Any


def async_client(
    url: "RedisURL", timeout: float, connect_timeout: float, *, single: bool = False, sentinels: Any = None
) -> AsyncClient:
    """A client for the event loop.

    Args:
        url: where Redis is.
        timeout: seconds a reply may take.
        connect_timeout: seconds a connection may take.
        single: it has one connection; not with sentinels and in a Cluster.
        sentinels: what ``async_sentinels`` made, where the URL names some.
    """
    options = _options(timeout, connect_timeout, AsyncRetry)
    if url.kind == "cluster":
        return redis.asyncio.RedisCluster.from_url(url.client_url, **options, **_of_cluster(url, AsyncClusterNode))
    if url.kind == "sentinel":
        return sentinels.master_for(url.service, **options, **_behind_sentinel(url))
    return redis.asyncio.Redis.from_url(url.client_url, single_connection_client=single, **options)


def sync_client(url: "RedisURL", timeout: float) -> SyncClient:
    """A client for a thread.

    Args:
        url: where Redis is.
        timeout: seconds a reply or a connection may take.
    """
    options = _options(timeout, timeout, SyncRetry)
    if url.kind == "cluster":
        return redis.RedisCluster.from_url(url.client_url, **options, **_of_cluster(url, ClusterNode))
    if url.kind == "sentinel":
        sentinels = redis.Sentinel(url.hosts, sentinel_kwargs=ask_sentinels(SyncRetry))
        return sentinels.master_for(url.service, **options, **_behind_sentinel(url))
    return redis.Redis.from_url(url.client_url, **options)


def async_sentinels(url: "RedisURL") -> Any:
    """What asks the sentinels for the master whenever a client connects; to be closed like a client."""
    return redis.asyncio.Sentinel(url.hosts, sentinel_kwargs=ask_sentinels())


def ask_sentinels(retry: Callable[..., Any] = AsyncRetry) -> dict[str, Any]:
    """How sentinels are asked: one that is away must not cost the time in which the next would have answered."""
    return _options(SENTINEL_TIMEOUT, SENTINEL_TIMEOUT, retry)


def _options(timeout: float, connect_timeout: float, retry: Callable[..., Any]) -> dict[str, Any]:
    return {"socket_timeout": timeout, "socket_connect_timeout": connect_timeout, "retry": retry(NoBackoff(), 0)}


def _of_cluster(url: "RedisURL", node: Callable[..., Any]) -> dict[str, Any]:
    """Any node will do to begin with, and slots that nobody serves are no matter of the others."""
    return {"startup_nodes": [node(*host) for host in url.hosts], "require_full_coverage": False}


def _behind_sentinel(url: "RedisURL") -> dict[str, Any]:
    """The master's own credentials: the sentinels have others, or none."""
    return {"db": url.db, "username": url.username or None, "password": url.password or None}
