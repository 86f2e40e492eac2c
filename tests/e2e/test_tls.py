"""TLS and a password: what is published and worked off crosses the same connections as without."""

import pytest

from streamq import StreamQ
from streamq.core.config import Config
from streamq.core.errors import RedisUnavailable
from streamq.settings import Settings
from streamq.testing.server import PrivateServer
from tests.servers.ports import free_port
from tests.support import server_binary

pytestmark = pytest.mark.e2e

SECRET = "canary-of-redis"
LARGE = "x" * 5_000  # a batch is more than one record of TLS


@pytest.fixture
def secured(certificate):
    """Where a server with TLS and a password listens: the only one here that can do TLS is Debian's."""
    port = free_port()
    files = ["--tls-cert-file", certificate / "cert.pem", "--tls-key-file", certificate / "key.pem"]
    trust = ["--tls-ca-cert-file", certificate / "cert.pem", "--tls-auth-clients", "no"]
    options = ["--bind", "127.0.0.1", "--tls-port", str(port), "--requirepass", SECRET, *map(str, files + trust)]
    with PrivateServer(server_binary("redis-7.0"), args=options):
        yield f"127.0.0.1:{port}?ssl_ca_certs={certificate / 'cert.pem'}"


def app_at(url):
    return StreamQ(settings=Settings(config=Config(defaults={"max_consumers": 50}), redis_url=url))


async def test_messages_go_over_tls_and_back(secured):
    app, ran = app_at(f"rediss://:{SECRET}@{secured}"), []

    @app.handler("orders")
    async def work(number: int, text: str):
        ran.append((number, len(text)))

    async with app:
        payloads = [{"type": "work", "number": number, "text": LARGE} for number in range(600)]
        receipts = await app.publish_many("orders", payloads)
        await app.worker("orders", burst=True).run()
    assert len({receipt.id for receipt in receipts}) == 600
    assert sorted(ran) == [(number, len(LARGE)) for number in range(600)]


@pytest.mark.parametrize(
    ("url", "why"),
    [("rediss://:wrong@{}", "WRONGPASS|invalid"), ("redis://:canary-of-redis@{}", "closed|lost|reset")],
    ids=["wrong password", "no TLS"],
)
async def test_without_the_right_key_nothing_gets_in(secured, url, why):
    place = secured if url.startswith("rediss") else secured.partition("?")[0]
    with pytest.raises(RedisUnavailable, match=why):
        async with app_at(url.format(place)) as app:
            await app.session.connections.execute("PING")
