"""What a start has to know, found and checked at once: the only reader of the environment, and of YAML.

``streamq.sources`` does the reading; here the parts become one :class:`Settings`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from streamq.core.config import (
    DEFAULT_LEVELS,
    LEVELS,
    Config,
    ErrorRules,
    LevelConfig,
    QueueConfig,
    WorkerConfig,
    keys_of,
    resolve_queue,
)
from streamq.core.config_tree import schema, tree
from streamq.core.errors import ConfigError
from streamq.core.values import Secret, format_value
from streamq.sources.document import Document, Place
from streamq.sources.environment import Variables, override
from streamq.sources.yaml_file import read_yaml
from streamq.store.url import parse_url

__all__ = ["ConfigError", "Settings", "config_schema", "effective", "load_settings"]

FILE = Path("config", "queues.yaml")


class Settings(Struct, frozen=True, kw_only=True):
    """What a start has found out.

    Args:
        config: the configuration, every default filled in.
        config_path: the file it was read from; None when there is none.
        origins: where each value comes from, by dotted key: ``default``, ``level high``, ``config/queues.yaml:7``,
            a variable or ``--redis-url``.
        redis_url: the Redis that somebody named; None: try ``redis://localhost:6379``, then the embedded server.
        redis_url_origin: who named it.
        signing_keys: the raw text of the keys.
        production: whether ``STREAMQ_ENV=production``.
        log_level: ``debug`` ``info`` ``warning`` ``error`` or ``critical``.
        log_format: ``console`` or ``json``; None: whatever suits stderr.
        queues: the queues a container is told to serve.
        concurrency: how many handlers it is told to run at once.
    """

    config: Config
    config_path: Path | None = None
    origins: dict[str, str] = {}
    redis_url: str | None = None
    redis_url_origin: str = "default"
    signing_keys: str | None = None
    production: bool = False
    log_level: str = "info"
    log_format: str | None = None
    queues: list[str] = []
    concurrency: int | None = None


def load_settings(
    *,
    config: Path | None = None,
    redis_url: str | None = None,
    environ: Mapping[str, str] = os.environ,
    start: Path | None = None,
) -> Settings:
    """Find and read the file, then the environment.

    Args:
        config: the file, from ``--config``; else ``STREAMQ_CONFIG``, else ``config/queues.yaml`` here or further up.
        redis_url: from ``--redis-url``.
        environ: the environment.
        start: where to look for the file; the working directory unless given.

    Raises:
        ConfigError: all that is wrong, a line each: ``FILE:LINE:COLUMN: what is wrong, what would be right``.
    """
    path, shown = _find(config, environ, start or Path.cwd())
    document = read_yaml(path, shown) if path else Document()
    override(environ, document)
    variables = Variables(environ, document)
    origin, url = _redis_url(redis_url, document, variables)
    settings = Settings(
        config=_build(document),
        config_path=path,
        origins={**_origins(document), "redis.url": origin},
        redis_url=url,
        redis_url_origin=origin,
        signing_keys=variables.signing_keys(),
        production=variables.production(),
        log_level=variables.log_level(),
        log_format=variables.log_format(),
        queues=variables.queues(),
        concurrency=variables.concurrency(),
    )
    document.check()
    return settings


def config_schema() -> dict[str, Any]:
    """Return the JSON schema of the file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": str(FILE), **schema(tree())}


def effective(settings: Settings) -> dict[str, Any]:
    """Return the whole configuration as it holds now, nested like the file and written as in it; no secrets."""
    config = settings.config
    keys = keys_of(QueueConfig)
    signing = "required" if settings.signing_keys else "optional"
    queues = {name: replace(queue, signing=queue.signing or signing) for name, queue in config.queues.items()}
    return {
        "redis": {"url": settings.redis_url and str(parse_url(settings.redis_url)), "prefix": config.prefix},
        "queue_priorities": {level: _written(config.levels[level]) for level in LEVELS},
        "defaults": {key: format_value(keys[key], value) for key, value in config.defaults.items()},
        "queues": {name: _written(queue) for name, queue in queues.items()},
        "worker": _written(config.worker),
        "errors": dict(config.errors.types),
    }


def _written(struct: Struct) -> dict[str, Any]:
    return {name: format_value(key, getattr(struct, name)) for name, key in keys_of(type(struct)).items()}


def _find(config: Path | None, environ: Mapping[str, str], start: Path) -> tuple[Path | None, str]:
    chosen = config or environ.get("STREAMQ_CONFIG")
    if chosen:
        return Path(chosen), str(chosen)
    start = start.absolute()
    for depth, folder in enumerate((start, *start.parents)):
        try:
            found = (folder / FILE).is_file()
        except PermissionError:  # ours, then reading it says so; somebody else's folder further up is not our business
            found = depth == 0
        if found:
            return folder / FILE, str(Path(*[".."] * depth, FILE))
    return None, ""


def _build(document: Document) -> Config:
    levels = {level: replace(DEFAULT_LEVELS[level], **document.under("queue_priorities", level)) for level in LEVELS}
    defaults = document.under("defaults")
    errors = document.under("errors")
    config = Config(
        redis_url=document.values.get(("redis", "url")),
        prefix=document.values.get(("redis", "prefix"), "queue"),
        levels=levels,
        defaults=defaults,
        queues={
            name: resolve_queue(name, document.under("queues", name), defaults, levels) for name in document.queues
        },
        worker=WorkerConfig(**document.under("worker")),
        errors=ErrorRules(types=errors, words=errors),
    )
    if not document.problems:  # else a combination may look impossible only because one of its values is missing
        for problem in config.problems():
            blamed = next(path for path in problem.paths if path in document.places)
            document.wrong(document.places[blamed], problem.text)
    return config


def _origins(document: Document) -> dict[str, str]:
    found = {".".join(path): place.origin for path, place in document.places.items()}
    said = document.under("defaults")
    found.setdefault("redis.prefix", "default")
    for key in keys_of(WorkerConfig):
        found.setdefault(f"worker.{key}", "default")
    for level in LEVELS:
        for key in keys_of(LevelConfig):
            found.setdefault(f"queue_priorities.{level}.{key}", "default")
    for name in document.queues:
        level = {**said, **document.under("queues", name)}.get("priority", "normal")
        for key in keys_of(QueueConfig):
            otherwise = f"level {level}" if key in {"max_consumers", "ack_timeout"} else "default"
            found.setdefault(f"queues.{name}.{key}", found.get(f"defaults.{key}", otherwise))
    return found


def _redis_url(option: str | None, document: Document, variables: Variables) -> tuple[str, str | None]:
    """Return who named the Redis, and its URL: the first of those who may."""
    written = document.places.get(("redis", "url"), Place()), document.values.get(("redis", "url")) or ""
    ranked = (Place(variable="--redis-url"), option or ""), variables.redis_url(), written
    place, url = next((named for named in ranked if named[1]), None) or variables.redis_parts()
    for where, text in (written, (place, url)):
        try:
            parse_url(text or "redis://")
        except ConfigError as error:
            document.wrong(where, str(error))
    return (place.origin, Secret(url)) if url else ("default", None)
