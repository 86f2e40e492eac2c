"""The network between an app and its server, to be harmed.

For instance: `with network(house) as proxy: app = house.app(url=proxy.url)`.
"""

from streamq.store.scripts import script
from tests.faults.house import GROUP, eventually
from tests.servers.proxy import FaultProxy

MARK = "cut-here"  # in the payload of a message whose request is to be told from the others


def network(house, **choices):
    """A proxy in front of the server of a house."""
    return FaultProxy(house.server.url, **choices)


def call_of(name):
    """What is in every request that runs a script whose text the server knows already."""
    return script(name).sha.encode()


def info(house, section):
    """What the server says of itself."""
    lines = house.raw("INFO", section).decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def connections_made(house):
    """How many connections the server has ever accepted."""
    return int(info(house, "stats")["total_connections_received"])


def reads(house):
    """How many reads for the group the server has answered."""
    found = info(house, "commandstats").get("cmdstat_xreadgroup", "calls=0")
    return int(found.split("calls=")[1].split(",")[0])


def blocked(house):
    """The connections that wait for messages, as CLIENT LIST shows them."""
    lines = house.raw("CLIENT", "LIST").splitlines()
    return [line for line in lines if b"cmd=xreadgroup" in line and b" flags=b" in line]


async def done(house, number, queue="orders"):
    """Wait until so many messages are done. Not by counting events: a message may be released on its way."""
    await eventually(lambda: house.books.of(queue).ledger().get("done", 0) >= number)


def dies_with(house, consumer, number, *, ms_ago=0):
    """What Redis holds after a worker fetched messages, beat for the last time so long ago, and was killed."""
    books = house.books
    books.raw("XREADGROUP", "GROUP", GROUP, consumer, "COUNT", number, "STREAMS", books.keys.stream("normal"), ">")
    books.raw("HSET", books.keys.workers, consumer, books.now_ms() - ms_ago)
