"""Reads the environment it is handed (``streamq.settings`` hands it the real one).

A key of the file is overridden by ``STREAMQ_SECTION__..__KEY``, whose value is written as in the file. A variable with
single underscores (``STREAMQ_CONCURRENCY``) belongs to an option of the command line and is not looked at here. A
variable that is empty counts as not set, as ``${NAME:-}`` in a compose file leaves it.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from streamq.core.config import QueueConfig, keys_of
from streamq.core.config_tree import Each, Node, Section, child, tree
from streamq.core.errors import ConfigError
from streamq.core.values import Key, Secret, one_of, parse_value, show
from streamq.sources.document import Document, Place
from streamq.sources.yaml_file import plain
from streamq.store.url import RedisURL

PREFIX = "STREAMQ_"
LOG_LEVELS = {name: name for name in ("debug", "info", "warning", "error", "critical")} | {
    "warn": "warning",
    "fatal": "critical",
}


def override(environ: Mapping[str, str], document: Document) -> None:
    """Let every ``STREAMQ_SECTION__KEY`` replace what the file says."""
    for name, text in sorted(environ.items()):
        if not text or not name.startswith(PREFIX) or "__" not in name.removeprefix(PREFIX):
            continue
        place = Place(variable=name)
        try:
            path, key = _path(name.removeprefix(PREFIX).lower().split("__"), document)
        except ConfigError as error:
            document.wrong(place, str(error))
            continue
        if (before := document.places.get(path)) and before.variable:
            document.wrong(place, f"{before} sets the same key, expected one of the two")
        if path[0] == "queues":
            document.queues[path[1]] = None
        document.put(path, key, text if key.kind in {"label", "url"} else plain(text), place)


def _path(words: list[str], document: Document) -> tuple[tuple[str, ...], Key]:
    path: tuple[str, ...] = ()
    node: Node = tree()
    while words and not isinstance(node, Key):
        # A name of the user's may hold a double underscore itself: it takes all but the key below it.
        count = 1 if isinstance(node, Section) else max(1, len(words) - isinstance(node.of, Section))
        word, words = "__".join(words[:count]), words[count:]
        if isinstance(node, Each):
            word = _name_meant(word, document.names(path))
        node, path = child(node, word), (*path, word)
    if words or not isinstance(node, Key):
        raise ConfigError(f"{show('.'.join(path))} is {'a key' if words else 'a section'}, expected SECTION__KEY")
    return path, node


def _name_meant(word: str, known: set[str]) -> str:
    """Return the name in the file that a variable means: it cannot write lower case, a dash or a dot."""
    alike = {word} if word in known else {name for name in known if _squash(name) == _squash(word)}
    if len(alike) > 1:
        raise ConfigError(f"this may mean {one_of(sorted(alike))}, expected the key in the file instead")
    return next(iter(alike), word)


def _squash(name: str) -> str:
    return re.sub("[^a-z0-9]", "_", name.lower())


class Variables:
    """The variables that stand alone. What is wrong with one becomes a problem of the document."""

    def __init__(self, environ: Mapping[str, str], document: Document) -> None:
        self._environ = environ
        self._document = document

    def first(self, *names: str) -> tuple[str, str]:
        """Return the first of the variables that is set, and its text; else the last one and no text."""
        return next(((name, text) for name in names if (text := self._environ.get(name))), (names[-1], ""))

    def redis_url(self) -> tuple[Place, str]:
        """Return who named a URL as a whole, and the URL or no text."""
        name, url = self.first("STREAMQ_REDIS_URL", "REDIS_URL")
        return Place(variable=name), url

    def redis_parts(self) -> tuple[Place, str]:
        """Return who named ``REDIS_HOST``, ``REDIS_PORT`` or ``REDIS_PASSWORD``, and the URL of them or no text."""
        place = Place(variable=self.first("REDIS_HOST", "REDIS_PORT", "REDIS_PASSWORD")[0])
        (_, host), (_, port), (_, password) = (self.first(f"REDIS_{part}") for part in ("HOST", "PORT", "PASSWORD"))
        if port.startswith("tcp://"):  # not the user: Kubernetes sets this when a service is called "redis"
            port = port.rpartition(":")[2] if host else ""
        if not (host or port or password):
            return place, ""
        host, port = host or "localhost", port or "6379"
        if not re.fullmatch("[A-Za-z0-9._:-]+", host):
            self._wrong("REDIS_HOST", "this is no host, expected a name or an address; a URL goes into REDIS_URL")
        elif not re.fullmatch("[0-9]{1,5}", port):
            self._wrong("REDIS_PORT", f"{show(port)} is no port, expected a number such as 6379")
        else:
            return place, RedisURL(kind="standalone", hosts=((host, int(port)),), password=password).client_url
        return place, ""

    def signing_keys(self) -> str | None:
        """Return the text of the signing keys, from the variable or from the file that another one names."""
        (_, text), (name, file) = self.first("STREAMQ_SIGNING_KEYS"), self.first("STREAMQ_SIGNING_KEYS_FILE")
        if not file:
            return Secret(text) if text else None
        if text:
            self._wrong(name, "STREAMQ_SIGNING_KEYS is set too, expected one of the two")
            return None
        # What the variable says is not repeated in an error: by mistake it may be the keys themselves.
        try:
            text = Path(file).read_text("utf-8").strip()
        except OSError as error:
            self._wrong(name, f"cannot be read: {error.strerror}, expected the path of a file with the keys")
        except ValueError:
            self._wrong(name, "this file is not text, expected KEYID:STATE:BASE64, separated by commas")
        else:
            if not text:
                self._wrong(name, "this file is empty, expected KEYID:STATE:BASE64, separated by commas")
        return Secret(text) if text else None

    def production(self) -> bool:
        """Return whether this is production, where nothing insecure or makeshift may start."""
        name, text = self.first("STREAMQ_ENV")
        if text.lower().startswith("prod") and text != "production":
            self._wrong(name, f"{show(text)} is not usable, expected production")  # nearly right would mean unprotected
        return text == "production"

    def log_level(self) -> str:
        """Return ``debug``, ``info``, ``warning``, ``error`` or ``critical``."""
        return self._choice(*self.first("STREAMQ_LOG_LEVEL", "LOG_LEVEL"), LOG_LEVELS) or "info"

    def log_format(self) -> str | None:
        """Return ``console`` or ``json`` if one was named."""
        return self._choice(*self.first("STREAMQ_LOG_FORMAT"), {"console": "console", "json": "json"})

    def queues(self) -> list[str]:
        """Return the queues that a container is told to serve. Whoever serves them checks the names."""
        texts = (self.first(name)[1] for name in ("QUEUE_NAME", "QUEUE_NAMES"))
        return list(dict.fromkeys(name for text in texts for word in text.split(",") if (name := word.strip())))

    def concurrency(self) -> int | None:
        """Return how many handlers a container is told to run at once."""
        name, text = self.first("MAX_CONCURRENT", "MAX_CONCURRENT_JOBS")
        try:
            return int(parse_value(keys_of(QueueConfig)["max_consumers"], plain(text))) if text else None
        except ValueError as error:
            self._wrong(name, str(error))
            return None

    def _choice(self, name: str, text: str, known: Mapping[str, str]) -> str | None:
        if text and text.lower() not in known:
            self._wrong(name, f"{show(text)} is not usable, expected {one_of(known)}")
        return known.get(text.lower())

    def _wrong(self, name: str, text: str) -> None:
        self._document.wrong(Place(variable=name), text)
