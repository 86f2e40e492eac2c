"""Where a rig's Redis is: one server, a master behind sentinels, or the masters of a Cluster."""

from urllib.parse import quote, urlsplit

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from tests.servers.cluster import PrivateCluster
from tests.servers.sentinel import SERVICE, PrivateSentinel
from tests.support import SERVERS

#: Every kind of server, and both ways to have several of one.
EVERYWHERE = (*SERVERS, "sentinel", "cluster")
SEVERAL = {"sentinel": PrivateSentinel, "cluster": PrivateCluster}


def url_of(server, password):
    """The URL of a server, with its password."""
    return server.url.replace("unix://", f"unix://:{quote(password)}@") if password else server.url


def connect(url):
    """A client that looks past streamq. It waits for a server that was killed and reads its data again."""
    options = {
        "socket_timeout": 5, "retry": Retry(ConstantBackoff(0.05), 200),
        "retry_on_error": [redis.BusyLoadingError],
    }  # fmt: skip
    parts = urlsplit(url)
    hosts = [pair.rpartition(":")[::2] for pair in parts.netloc.rpartition("@")[2].split(",")]
    if parts.scheme == "redis+sentinel":
        return redis.Sentinel(hosts).master_for(SERVICE, password=parts.password, **options)
    if parts.scheme == "redis+cluster":
        nodes = [redis.cluster.ClusterNode(host, int(port)) for host, port in hosts]
        return AllMasters(startup_nodes=nodes, password=parts.password, **options)
    return redis.Redis.from_url(url, **options)


class AllMasters(redis.RedisCluster):
    """A Cluster seen as one server."""

    def close(self):
        """As of one server: it may be used again."""
        self.disconnect_connection_pools()

    def info(self, section):
        """What every master says, numbers added up."""
        told = super().info(section, target_nodes=redis.RedisCluster.PRIMARIES).values()
        return {name: sum(node[name] for node in told) for name in next(iter(told)) if name.endswith("_clients")}


class Serving:
    """The server of several that has a key when something happens to it; what follows happens to the same one."""

    def __init__(self, several, key="queue:work"):
        self._several, self._key, self._chosen = several, key, None
        self.url = several.url

    def kill(self):
        self._choose().kill()

    def pause(self):
        self._choose().pause()

    def start(self):
        self._chosen.start()

    def resume(self):
        self._chosen.resume()

    def _choose(self):
        self._chosen = self._several.serving(self._key)
        return self._chosen
