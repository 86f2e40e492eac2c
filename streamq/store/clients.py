"""Clients of redis-py for each kind of URL, with our timeouts and without its repetitions."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import redis
import redis.asyncio
from redis.asyncio.cluster import ClusterNode as AsyncClusterNode
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.retry import Retry as SyncRetry
from redis.sentinel import MasterNotFoundError

if TYPE_CHECKING:
    from streamq.store.masters import Address, MasterWatch
    from streamq.store.url import RedisURL

SENTINEL_TIMEOUT = 0.5  # seconds a sentinel may take to answer: the next one is asked then

AsyncClient = Any  # redis.asyncio.Redis or RedisCluster: their stubs disagree on every command
SyncClient = Any


def async_client(url: "RedisURL", timeout: float, sentinels: "AsyncSentinels | None" = None) -> AsyncClient:
    """A client for the event loop.

    Args:
        url: where Redis is.
        timeout: seconds a reply or a connection may take.
        sentinels: who knows the master, where the URL names some.
    """
    options = _options(timeout, AsyncRetry)
    if url.kind == "cluster":
        return redis.asyncio.RedisCluster.from_url(url.client_url, **options, **_of_cluster(url, AsyncClusterNode))
    if sentinels is not None:
        return sentinels.master_for(url.service, **options, **_behind_sentinel(url))
    return redis.asyncio.Redis.from_url(url.client_url, **options)


def sync_client(url: "RedisURL", timeout: float, watch: "MasterWatch | None" = None) -> SyncClient:
    """A client for a thread.

    Args:
        url: where Redis is.
        timeout: seconds a reply or a connection may take.
        watch: who knows the master, where the URL names sentinels.
    """
    options = _options(timeout, SyncRetry)
    if url.kind == "cluster":
        return redis.RedisCluster.from_url(url.client_url, **options, **_of_cluster(url, ClusterNode))
    if watch is not None:
        sentinels = _Sentinels(watch)
        return sentinels.master_for(  # type: ignore[no-untyped-call]
            url.service, **options, **_behind_sentinel(url)
        )
    return redis.Redis.from_url(url.client_url, **options)


def ask_sentinels(retry: Callable[..., Any]) -> dict[str, Any]:
    """How sentinels are asked: one that is away must not cost the time in which the next would have answered.

    Args:
        retry: redis-py's class of that name, for the loop or for threads.
    """
    return _options(SENTINEL_TIMEOUT, retry)


def new_connection(place: Any) -> Any:
    """A connection of redis-py, not yet open, for replies that are parsed without it: one shape for all of them.

    Args:
        place: where it leads: the pool of a client, or a node of a Cluster.
    """
    return place.connection_class(**{**place.connection_kwargs, "protocol": 2})


class AsyncSentinels(redis.asyncio.Sentinel):
    """Where a client connects to, as the sentinels know together.

    redis-py believes the first one that answers. That may be one that has not heard of the failover: it was cut off
    together with the master that was replaced.

    Args:
        watch: asks all of them.
    """

    def __init__(self, watch: "MasterWatch") -> None:
        super().__init__([])  # type: ignore[no-untyped-call]
        self._watch = watch

    async def discover_master(self, service_name: str) -> "Address":
        """Where the master is.

        Raises:
            MasterNotFoundError: no sentinel knows a good one.
        """
        return _known(await asyncio.to_thread(self._watch.ask), service_name)


class _Sentinels(redis.Sentinel):
    """The same for threads."""

    def __init__(self, watch: "MasterWatch") -> None:
        super().__init__([])  # type: ignore[no-untyped-call]
        self._watch = watch

    def discover_master(self, service_name: str) -> "Address":
        return _known(self._watch.ask(), service_name)


def _known(master: "Address | None", service: str) -> "Address":
    if master is None:
        raise MasterNotFoundError(f"no sentinel answers that knows a living master called {service!r}")
    return master


def _options(timeout: float, retry: Callable[..., Any]) -> dict[str, Any]:
    return {"socket_timeout": timeout, "socket_connect_timeout": timeout, "retry": retry(NoBackoff(), 0)}


def _of_cluster(url: "RedisURL", node: Callable[..., Any]) -> dict[str, Any]:
    """Any node will do to begin with, and slots that nobody serves are no matter of the others."""
    return {"startup_nodes": [node(*host) for host in url.hosts], "require_full_coverage": False}


def _behind_sentinel(url: "RedisURL") -> dict[str, Any]:
    """The master's own credentials: the sentinels have others, or none."""
    return {"db": url.db, "username": url.username or None, "password": url.password or None}
