"""Finding Redis: the URL that was said, else this machine's, else a server of our own, but not in production."""

import asyncio

import pytest
import redis

from streamq.core.errors import ConfigError, RedisUnavailable
from streamq.store import locate as module
from streamq.store.embedded import EmbeddedServer
from streamq.store.locate import Located, locate
from streamq.store.url import parse_url
from streamq.testing.server import PrivateServer

NOWHERE = "unix:///nowhere/s.sock"


@pytest.fixture
def project(tmp_path):
    yield tmp_path
    for directory in (tmp_path / ".streamq", tmp_path / "mine"):
        EmbeddedServer(directory).stop() if directory.exists() else None


def find(said, project, *, production=False):
    return locate(said, "somebody", project=project, production=production)


def test_what_was_said_is_believed(project):
    """It is not even asked whether it answers: that is the business of who connects."""
    assert find(NOWHERE, project) == Located(parse_url(NOWHERE), "somebody")
    with pytest.raises(ConfigError):
        find("http://x", project)


@pytest.mark.parametrize("production", [True, False])
def test_a_server_on_this_machine_is_taken(project, monkeypatch, production):
    with PrivateServer() as server:
        monkeypatch.setattr(module, "LOCAL", server.url)
        found = find(None, project, production=production)
        assert found == Located(parse_url(server.url), "answers on this machine")
        asyncio.run(found.revive())
        found.leave()
        with redis.Redis.from_url(server.url) as client:
            assert client.ping(), "it is not ours to stop"


def test_one_that_does_not_answer_is_not_taken(project, monkeypatch):
    """A port that accepts and says nothing, like a frozen server, must not hold up the start."""
    monkeypatch.setattr(module, "PROBE", 0.2)
    with PrivateServer() as server:
        monkeypatch.setattr(module, "LOCAL", server.url)
        server.pause()
        with pytest.raises(RedisUnavailable, match="STREAMQ_ENV=production"):
            find(None, project, production=True)
    assert not (project / ".streamq").exists()


def test_without_any_a_server_of_our_own_is_started(project, monkeypatch):
    """For the project, until the last one leaves; killed meanwhile it can be had again."""
    monkeypatch.setattr(module, "LOCAL", NOWHERE)
    found = find(None, project)
    assert found.origin.startswith("embedded")
    assert found.server.directory == project / ".streamq"
    assert found.server.running()
    found.server._ask("SHUTDOWN NOSAVE")
    asyncio.run(found.revive())
    assert found.server.running()
    found.leave()
    assert not found.server.running()


@pytest.mark.parametrize("production", [True, False])
def test_an_embedded_server_that_was_asked_for_is_started(project, production):
    """Also in production: somebody said so. In the named directory, or the project's."""
    for said, directory in (("embedded://", ".streamq"), (f"embedded://{project}/mine", "mine")):
        found = find(said, project, production=production)
        assert (found.origin, found.server.directory) == ("somebody", project / directory)
        assert found.server.running()
        found.leave()
