"""The URLs of Redis that streamq understands, as values. Pure: nothing is looked up, read or connected to here."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, quote, unquote, urlencode

from streamq.core.errors import ConfigError

Kind = Literal["standalone", "unix", "sentinel", "cluster", "embedded"]

SCHEMES: dict[str, tuple[Kind, bool]] = {  # and whether it means TLS
    "redis": ("standalone", False),
    "rediss": ("standalone", True),
    "valkey": ("standalone", False),
    "valkeys": ("standalone", True),
    "unix": ("unix", False),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
    "redis+sentinel": ("sentinel", False),
    "embedded": ("embedded", False),
}
EXAMPLES: dict[Kind, str] = {
    "standalone": "redis://[USER:PASSWORD@]HOST:6379/0",
    "unix": "unix:///path/to/redis.sock?db=0",
    "cluster": "redis+cluster://[USER:PASSWORD@]HOST:6379",
    "sentinel": "redis+sentinel://[USER:PASSWORD@]HOST1:26379,HOST2:26379/NAME/0",
    "embedded": "embedded:// or embedded:///path/to/directory",
}
DEFAULT_PORTS: dict[Kind, int] = {"standalone": 6379, "cluster": 6379, "sentinel": 26379}
# What a URL may set of redis-py's connection, in whole numbers and for TLS. Not the rest: timeouts, retries and the
# shape of replies are what streamq relies on, and an option of the URL would win over them.
NUMBERS = frozenset({"health_check_interval", "max_connections", "socket_connect_timeout"})
TLS_OPTIONS = frozenset({
    "ssl_ca_certs", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile", "ssl_password"
})  # fmt: skip
MASK = "***"

_PARTS = re.compile(r"(?P<authority>[^/?#]*)(?P<path>[^?#]*)\??(?P<query>[^#]*)(?P<fragment>.*)", re.DOTALL)
_HOST = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<name>[^\s\[\]:]*))(?::(?P<port>[^:]*))?")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RedisURL:
    """Where Redis is. `parse_url` makes it. ``str()`` and ``repr()`` never show a password.

    Attributes:
        kind: which sort of client it takes; the other attributes are filled as far as they apply to it.
        hosts: host and port: one (standalone), the sentinels, or the nodes of a cluster to begin with.
        service: the name under which the sentinels know the master.
        db: the number of the database; 0 in a cluster.
        username: of the server, not of a sentinel.
        password: the same.
        tls: whether to speak TLS.
        path: the unix socket.
        directory: of the embedded server; None leaves it to the project.
        options: further parameters of redis-py's connection, not yet converted.
    """

    kind: Kind
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""
    db: int = 0
    username: str = ""
    password: str = ""
    tls: bool = False
    path: str = ""
    directory: Path | None = None
    options: tuple[tuple[str, str], ...] = ()

    @property
    def client_url(self) -> str:
        """The URL for redis-py's ``from_url``, password included; of a cluster with several nodes, the first one's.

        Raises:
            ValueError: redis-py has no URL for a sentinel, nor for the embedded server.
        """
        if self.kind in {"sentinel", "embedded"}:
            raise ValueError(f"redis-py has no URL of kind {self.kind}")
        if self.kind == "unix":
            return f"unix://{self._user(self.password)}{quote(self.path)}{self._query(db=self.db)}"
        scheme = "rediss" if self.tls else "redis"
        db = f"/{self.db}" if self.kind == "standalone" else ""
        return f"{scheme}://{self._user(self.password)}{_spelled(self.hosts[:1])}{db}{self._query()}"

    def __str__(self) -> str:
        user = self._user(MASK)
        match self.kind:
            case "embedded":
                return f"embedded://{quote(str(self.directory or ''))}"
            case "unix":
                return f"unix://{user}{quote(self.path)}{self._query(MASK, db=self.db)}"
            case "sentinel":
                return f"redis+sentinel://{user}{_spelled(self.hosts)}/{quote(self.service, safe='')}/{self.db}"
            case "cluster":
                return f"redis{'s' * self.tls}+cluster://{user}{_spelled(self.hosts)}{self._query(MASK)}"
            case "standalone":  # pragma: no branch - there is no other kind
                return f"redis{'s' * self.tls}://{user}{_spelled(self.hosts)}/{self.db}{self._query(MASK)}"

    def __repr__(self) -> str:
        return f"RedisURL({str(self)!r})"

    def _user(self, password: str) -> str:
        secret = f":{quote(password, safe='*')}" if self.password else ""
        return f"{quote(self.username, safe='')}{secret}@" if self.username or secret else ""

    def _query(self, mask: str = "", **more: int) -> str:
        pairs = [(key, mask if mask and "password" in key else value) for key, value in self.options]
        pairs += [(key, str(value)) for key, value in more.items()]
        return f"?{urlencode(pairs, safe='*')}" if pairs else ""


def parse_url(text: str) -> RedisURL:
    """Read a URL: one of ``redis rediss valkey valkeys unix redis+cluster rediss+cluster redis+sentinel embedded``.

    Args:
        text: the URL; what would be special in a user name, a password or a path is percent-encoded.

    Raises:
        ConfigError: it is none of them, or something in it is wrong. The text shows the URL without its password.
    """
    scheme, separator, rest = text.strip().partition("://")
    kind, tls = SCHEMES.get(scheme.lower(), (None, False)) if separator else (None, False)
    if kind is None:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise ConfigError(f"Redis URL {redacted(text)!r}: it does not begin with one of {known}")
    try:
        return _parse(kind, tls, rest)
    except ValueError as error:
        raise ConfigError(f"Redis URL {redacted(text)!r}: {error}; right would be {EXAMPLES[kind]}") from None


def redacted(text: str) -> str:
    """A URL as it was written, however wrong, without what may be a password."""
    text = re.sub(r"^([A-Za-z+]*://)?.*@", rf"\1{MASK}@", text.strip(), flags=re.DOTALL)
    return re.sub(r"(password=)[^&]*", rf"\1{MASK}", text, flags=re.IGNORECASE)


def _parse(kind: Kind, tls: bool, rest: str) -> RedisURL:
    """Everything after ``://``. No ValueError repeats a value: it may be a piece of a password."""
    parts = _PARTS.match(rest)
    assert parts is not None  # noqa: S101 - every text matches
    authority, path, query = parts["authority"], parts["path"], parts["query"]
    if parts["fragment"] or (kind in DEFAULT_PORTS and "@" in path + query and "@" not in authority):
        raise ValueError("a '/', '?', '#' or '@' inside a password or a path is written %2F, %3F, %23 or %40")
    userinfo, _, hosts = authority.rpartition("@")
    username, _, password = (unquote(part) for part in userinfo.partition(":"))
    options = dict(parse_qsl(query, keep_blank_values=True))
    url = RedisURL(
        kind=kind,
        tls=tls,
        username=options.pop("username", username),
        password=options.pop("password", password),
        db=_database(options.pop("db", "")),
        options=tuple(options.items()),
    )
    _check_options(url)
    match kind:
        case "embedded":
            return _embedded(url, authority, path, query)
        case "unix":
            if hosts or not path.strip("/"):
                raise ValueError("it needs the absolute path of a socket, after three slashes")
            return replace(url, path=unquote(path))
        case "sentinel":
            return _sentinel(replace(url, hosts=_hosts(kind, hosts)), path)
        case "standalone" | "cluster":  # pragma: no branch - there is no other kind
            url = replace(url, hosts=_hosts(kind, hosts), db=url.db or _database(path.strip("/")))
    if kind == "cluster" and url.db:
        raise ValueError("a cluster has no database but 0")
    if kind == "standalone" and len(url.hosts) > 1:
        raise ValueError("it names several hosts: that takes redis+cluster:// or redis+sentinel://")
    return url


def _embedded(url: RedisURL, authority: str, path: str, query: str) -> RedisURL:
    if authority or query or (path and not path.strip("/")):
        raise ValueError("it takes nothing but the absolute path of a directory, after three slashes")
    return replace(url, directory=Path(unquote(path)) if path else None)


def _sentinel(url: RedisURL, path: str) -> RedisURL:
    service, _, db = path.removeprefix("/").partition("/")
    if not service:
        raise ValueError("it lacks the name under which the sentinels know the master")
    return replace(url, service=unquote(service), db=url.db or _database(db))


def _hosts(kind: Kind, text: str) -> tuple[tuple[str, int], ...]:
    if not text and kind == "sentinel":
        raise ValueError("it names no sentinel")
    hosts = []
    for part in text.split(","):
        match = _HOST.fullmatch(part)
        if not match or (not part and "," in text):
            raise ValueError("a host is written HOST, HOST:PORT or [IPV6]:PORT, several with commas between them")
        port = match["port"]
        if port is not None and not (_is_number(port) and 0 < int(port) < 65536):
            raise ValueError("a port is a number from 1 to 65535")
        hosts.append((match["v6"] or match["name"] or "localhost", int(port or DEFAULT_PORTS[kind])))
    return tuple(hosts)


def _database(text: str) -> int:
    if text and not _is_number(text):
        raise ValueError("a database is a number from 0 on")
    return int(text or 0)


def _check_options(url: RedisURL) -> None:
    if url.options and url.kind == "sentinel":
        raise ValueError("with sentinels it takes no options")
    known = NUMBERS | TLS_OPTIONS if url.tls else NUMBERS
    for name, value in url.options:
        if name not in known:
            raise ValueError(f"it takes no option {name!r}, only {', '.join(sorted(known))}")
        if name in NUMBERS and not _is_number(value):
            raise ValueError(f"the option {name} is a whole number")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10


def _spelled(hosts: tuple[tuple[str, int], ...]) -> str:
    return ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in hosts)
