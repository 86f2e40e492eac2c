"""The shape of ``config/queues.yaml``: which section holds which keys. One tree for the file, the environment, editors.

Pure; the keys themselves are declared in :mod:`streamq.core.config`.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, get_args

from msgspec import NODEFAULT, Struct
from msgspec.structs import fields

from streamq.core.config import (
    LEVELS,
    QUEUE_NAME,
    RESERVED_NAMES,
    Config,
    ErrorClassName,
    LevelConfig,
    QueueConfig,
    WorkerConfig,
    check_queue_name,
    keys_of,
)
from streamq.core.errors import ConfigError
from streamq.core.values import LABEL, Key, format_value, one_of, show

# What they are without being said depends on the rest of the queue: no editor may promise a value.
DERIVED = ("max_consumers", "ack_timeout", "exponential_backoff", "signing")


class Section(Struct, frozen=True):
    """A mapping with a fixed set of keys."""

    doc: str
    keys: Mapping[str, "Node"]
    defaults: Mapping[str, Any] = {}


class Each(Struct, frozen=True):
    """A mapping whose names are the user's."""

    doc: str
    of: "Key | Section"
    check: Callable[[str], str]  # raises ConfigError for a name that may not be used
    names: Mapping[str, Any]  # the same as a JSON schema


Node = Key | Section | Each


@cache
def tree() -> Section:
    """Return the whole file as a tree."""
    top = keys_of(Config)
    redis = Section("Where Redis is", {"url": top["redis_url"], "prefix": top["prefix"]}, {"prefix": Config().prefix})
    queue = _section("A queue", QueueConfig)
    level = _section("A priority level", LevelConfig)
    verdict = Key(
        "choice", "What an error of this type, or with these words in it, is", choices=get_args(ErrorClassName)
    )
    names = {"pattern": f"^{QUEUE_NAME}$", "not": {"enum": list(RESERVED_NAMES)}}
    return Section(
        "The configuration of streamq",
        {
            "redis": redis,
            "queue_priorities": Section(
                "What a queue of each level gets unless it says otherwise", dict.fromkeys(LEVELS, level)
            ),
            "defaults": _section("What every queue gets unless it says otherwise", QueueConfig),
            "queues": Each(
                "The queues by name; one that is not here works with the defaults", queue, check_queue_name, names
            ),
            "worker": _section("What holds for a whole worker", WorkerConfig),
            "errors": Each("Errors by type name or by words", verdict, _check_words, {"minLength": 1}),
        },
    )


def child(node: Section | Each, name: str) -> Node:
    """Return what stands under ``name``.

    Raises:
        ConfigError: nothing may be called so here; the text names the nearest key that may.
    """
    if isinstance(node, Each):
        node.check(name)
        return node.of
    if name in node.keys:
        return node.keys[name]
    raise ConfigError(f"{show(name)} is no key here, {suggest(name, node.keys)}")


def suggest(name: str, known: Iterable[str]) -> str:
    """Return "did you mean ..." for the nearest of the known names, or all of them."""
    from difflib import get_close_matches  # only a mistake pays for it

    names = list(known)
    near = get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"expected {one_of(names)}"


def schema(node: Node, default: Any = NODEFAULT) -> dict[str, Any]:
    """Return ``node`` as a JSON schema (draft 2020-12), for editors.

    Args:
        node: a key, a section or the whole tree.
        default: what holds when nothing is written; left out when that depends on other keys.
    """
    said = {} if default is NODEFAULT else {"default": default}
    if isinstance(node, Key):
        return {"description": node.doc, **_form(node), **said}
    if isinstance(node, Each):
        inside: dict[str, Any] = {"propertyNames": node.names, "additionalProperties": schema(node.of)}
    else:
        keys = {name: schema(below, node.defaults.get(name, NODEFAULT)) for name, below in node.keys.items()}
        inside = {"properties": keys, "additionalProperties": False}
    return {"description": node.doc, "type": ["object", "null"], **inside}


def _form(key: Key) -> dict[str, Any]:
    limits = {"minimum": key.least, "maximum": key.most} if key.kind in {"duration", "size", "count"} else {}
    duration = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(ms|s|m|h|d)$"}
    size = {"type": "string", "pattern": "^[0-9]+(B|KiB|MiB)$"}
    null: list[Any] = [{"type": "null"}] if key.optional else []
    forms: dict[str, dict[str, Any]] = {
        "duration": {"anyOf": [duration, {"type": "number", **limits}, *null]},
        "size": {"anyOf": [size, {"type": "integer", **limits}]},
        "count": {"type": "integer", **limits},
        "flag": {"type": "boolean"},
        "choice": {"enum": [*key.choices, *([None] if key.optional else [])]},
        "label": {"type": "string", "pattern": f"^{LABEL}$"},
        "url": {"type": ["string", "null"], "pattern": "^[A-Za-z+]+://"},
    }
    return forms[key.kind]


def _section(doc: str, struct: type[Struct]) -> Section:
    keys = keys_of(struct)
    said = {field.name: field.default for field in fields(struct) if field.name in keys and field.name not in DERIVED}
    return Section(doc, keys, {k: format_value(keys[k], v) for k, v in said.items() if v is not NODEFAULT})


def _check_words(words: str) -> str:
    if not words.strip():
        raise ConfigError(
            "an empty name matches everything, expected the name of an exception type or words of its text"
        )
    return words
