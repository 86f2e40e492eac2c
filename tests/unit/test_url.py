"""The URLs of the interface, what each means, and that no password ever shows."""

from pathlib import Path

import pytest
from redis.connection import parse_url as as_redis_py_reads_it

from streamq.core.errors import ConfigError
from streamq.store.url import EXAMPLES, SCHEMES, RedisURL, parse_url

STANDALONE = [
    ("redis://localhost", "redis://localhost:6379/0"),
    ("redis://", "redis://localhost:6379/0"),
    ("  redis://localhost:6379/0\n", "redis://localhost:6379/0"),
    ("REDIS://Host:1/2", "redis://Host:1/2"),
    ("redis://h/3/", "redis://h:6379/3"),
    ("redis://h?db=4", "redis://h:6379/4"),
    ("redis://:pw@h", "redis://:pw@h:6379/0"),
    ("redis://me@h", "redis://me@h:6379/0"),
    ("redis://me:p%40s%2Fs@h", "redis://me:p%40s%2Fs@h:6379/0"),
    ("redis://me:p@ss@h", "redis://me:p%40ss@h:6379/0"),
    ("redis://h?username=me&password=pw", "redis://me:pw@h:6379/0"),
    ("redis://[::1]:7/0", "redis://[::1]:7/0"),
    ("redis://h?max_connections=9", "redis://h:6379/0?max_connections=9"),
    ("rediss://h:1/2?ssl_cert_reqs=none", "rediss://h:1/2?ssl_cert_reqs=none"),
    ("valkey://h:1/2", "redis://h:1/2"),
    ("valkeys://h:1/2", "rediss://h:1/2"),
]


@pytest.mark.parametrize(("text", "client_url"), STANDALONE)
def test_standalone_becomes_the_url_of_redis_py(text, client_url):
    """A URL of one server reaches redis-py complete and in redis-py's own words."""
    url = parse_url(text)
    assert (url.kind, url.client_url) == ("standalone", client_url)
    assert url.tls == client_url.startswith("rediss")


@pytest.mark.parametrize(
    "text",
    ["redis://me:p%40%3A%2F%23@h:1/2", "rediss://:a%20b@[::1]:1/2", "unix://me:p%2Fw@/run/a%20b%23.sock?db=2"],
)
def test_redis_py_reads_what_we_read(text):
    """What we decode and spell anew, redis-py decodes to the same values."""
    url, read = parse_url(text), as_redis_py_reads_it(parse_url(text).client_url)
    assert (read.get("username", ""), read["password"], read["db"]) == (url.username, url.password, 2)
    assert (read.get("path", ""), read.get("host"), read.get("port")) == (url.path, *(url.hosts or ((None, None),))[0])


def test_unix():
    """A unix socket is a path, with the database and the user beside it."""
    url = parse_url("unix:///run/my%20redis.sock?db=3&password=pw")
    assert url == RedisURL(kind="unix", path="/run/my redis.sock", db=3, password="pw")
    assert url.client_url == "unix://:pw@/run/my%20redis.sock?db=3"


def test_sentinel():
    """Sentinels are many hosts with a default port, the name of a master and a database."""
    url = parse_url("redis+sentinel://me:pw@h1:1,h2,[::1]:3/main/5")
    hosts = (("h1", 1), ("h2", 26379), ("::1", 3))
    assert url == RedisURL(kind="sentinel", hosts=hosts, service="main", db=5, username="me", password="pw")
    assert parse_url("redis+sentinel://h/main").db == 0


def test_cluster():
    """A cluster may name several nodes to begin with; redis-py's URL holds the first."""
    url = parse_url("rediss+cluster://:pw@h1,h2:2/0")
    assert url == RedisURL(kind="cluster", hosts=(("h1", 6379), ("h2", 2)), password="pw", tls=True)
    assert url.client_url == "rediss://:pw@h1:6379"
    assert parse_url("redis+cluster://h").client_url == "redis://h:6379"


def test_embedded():
    """The embedded server takes a directory, or leaves it to the project."""
    assert parse_url("embedded://") == RedisURL(kind="embedded")
    assert parse_url("embedded:///a%20b/@c").directory == Path("/a b/@c")


@pytest.mark.parametrize("text", ["redis+sentinel://h/main", "embedded://"])
def test_no_client_url_where_redis_py_has_none(text):
    """Asking for a redis-py URL that cannot exist is a bug, not an empty string."""
    with pytest.raises(ValueError, match="no URL of kind"):
        _ = parse_url(text).client_url


WRONG = [
    ("", "begin with one of redis://"),
    ("localhost:6379", "begin with one of redis://"),
    ("http://h", "begin with one of redis://"),
    ("redis+unix:///s", "begin with one of redis://"),
    ("redis://h:port", "a port is a number"),
    ("redis://h:", "a port is a number"),
    ("redis://h:0", "a port is a number"),
    ("redis://h:65536", "a port is a number"),
    ("redis://h:٣", "a port is a number"),
    ("redis://h/zero", "a database is a number"),
    ("redis://h/-1", "a database is a number"),
    ("redis://h/0/1", "a database is a number"),
    ("redis://h?db=x", "a database is a number"),
    ("redis://h1,h2", "several hosts"),
    ("redis://::1", "a host is written"),
    ("redis://[::1", "a host is written"),
    ("redis://a b", "a host is written"),
    ("redis://h#1", "%23"),
    ("redis://h?decode_responses=true", "takes no option 'decode_responses', only health_check_interval"),
    ("redis://h?socket_timeout=1", "takes no option 'socket_timeout'"),
    ("redis://h?ssl_cert_reqs=none", "takes no option 'ssl_cert_reqs'"),
    ("redis://h?max_connections=many", "max_connections is a whole number"),
    ("redis+cluster://h/1", "no database but 0"),
    ("redis+cluster://h?db=1", "no database but 0"),
    ("redis+cluster://h,", "a host is written"),
    ("redis+sentinel://h1:1,h2:2", "lacks the name"),
    ("redis+sentinel://h1:1,h2:2/", "lacks the name"),
    ("redis+sentinel://h//0", "lacks the name"),
    ("redis+sentinel:///main", "names no sentinel"),
    ("redis+sentinel://h/main/x", "a database is a number"),
    ("redis+sentinel://h/main?max_connections=1", "no options"),
    ("unix://", "absolute path of a socket"),
    ("unix://redis.sock", "absolute path of a socket"),
    ("embedded:///", "absolute path of a directory"),
    ("embedded://dir", "absolute path of a directory"),
    ("embedded:///dir?db=1", "absolute path of a directory"),
]


@pytest.mark.parametrize(("text", "reason"), WRONG)
def test_a_bad_url_says_what_is_wrong_and_what_is_right(text, reason):
    """Every refusal shows the URL, the reason, and an example of the kind that was meant."""
    with pytest.raises(ConfigError) as caught:
        parse_url(text)
    assert repr(text) in str(caught.value)
    assert reason in str(caught.value)
    kind, _ = SCHEMES.get(text.partition("://")[0], (None, False))
    assert kind is None or EXAMPLES[kind] in str(caught.value)


SECRETS = [
    "redis://me:s3cret@h:1/2",
    "redis://:s3cret@h",
    "rediss://h?ssl_password=s3cret&ssl_keyfile=/k",
    "redis+cluster://me:s3cret@h1,h2",
    "redis+sentinel://me:s3cret@h1,h2/main/1",
    "unix:///run/s?password=s3cret",
]


@pytest.mark.parametrize("text", SECRETS)
def test_a_password_never_shows(text):
    """Neither str nor repr of a URL shows a password, yet they say that there is one."""
    url = parse_url(text)
    for shown in (str(url), repr(url), f"{url}", f"{[url]}"):
        assert "s3cret" not in shown
        assert "***" in shown


@pytest.mark.parametrize(
    "text",
    [
        "me:s3cret@h",
        "http://me:s3cret@h",
        "redis://me:s3cret@h:port",
        "redis://:s3/cret@h",
        "redis://:s3?cret@h",
        "redis://:s3#cret@h",
        "redis://:s3@s3cret@h:port",
        "redis://:s3://s3cret@h:port",
        "redis://h/x?PASSWORD=s3cret&db=1",
        "redis+sentinel://me:s3cret@h",
    ],
)
def test_no_error_shows_a_password(text):
    """A refused URL is shown without its password, even where the password is what is wrong with it."""
    with pytest.raises(ConfigError) as caught:
        parse_url(text)
    assert "cret" not in str(caught.value)
    assert "s3" not in str(caught.value)
    assert "***" in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("text", ["redis://:a/b@h", "redis://:a?b@h", "redis://:a#b@h", "redis+cluster://:a/b@h"])
def test_a_password_that_needs_encoding_says_so(text):
    """The commonest mistake, a special character in a password, is named with its remedy."""
    with pytest.raises(ConfigError, match="%2F, %3F, %23 or %40"):
        parse_url(text)


@pytest.mark.parametrize("text", [text for text, _ in STANDALONE] + ["embedded:///a%20b", "unix:///s?db=1"])
def test_what_is_shown_can_be_read_again(text):
    """The redacted form is a URL of the same meaning, but for the password."""
    url = parse_url(text)
    again = parse_url(str(url))
    assert str(again) == str(url)
    assert (again.kind, again.hosts, again.db, again.tls) == (url.kind, url.hosts, url.db, url.tls)
