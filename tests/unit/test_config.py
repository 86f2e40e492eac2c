"""Every default of the configuration page, every limit, and how values are written."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamq.core.config import (
    LEVELS,
    Config,
    ErrorRules,
    LevelConfig,
    QueueConfig,
    WorkerConfig,
    format_duration,
    format_size,
    keys_of,
    parse_duration,
    parse_size,
    parse_value,
    resolve_queue,
)
from streamq.core.config_tree import child, schema, suggest, tree
from streamq.core.errors import ConfigError
from streamq.core.values import HARD_MAX_SIZE, Key, Secret, format_value, one_of, show

# --- defaults

QUEUE_DEFAULTS = {
    "priority": "normal",
    "consumer_group": "streamq",
    "max_consumers": 5,
    "max_length": 10_000,
    "on_full": "reject",
    "block_timeout": 30.0,
    "durable": "memory",
    "lease": 30.0,
    "ack_timeout": 1800.0,
    "max_retries": 3,
    "retry_delay": 1.0,
    "exponential_backoff": True,
    "max_retry_delay": 600.0,
    "delivery": "at_least_once",
    "signing": None,
    "max_size": 256 * 1024,
    "unknown_type_timeout": 3600.0,
    "unknown_key_timeout": 600.0,
    "max_deliveries": 20,
    "max_age": None,
    "healthy_below": 10_000,
    "healthy_pending_below": 1000,
}
WORKER_DEFAULTS = {
    "block": 2.0,
    "beat_interval": 2.5,
    "silent_after": 12.0,
    "drain_timeout": 25.0,
    "seen_window": 300.0,
    "idempotency_window": 86400.0,
}
LEVEL_DEFAULTS = {"critical": (1, 10, 30.0), "high": (2, 8, 300.0), "normal": (3, 5, 1800.0), "low": (4, 2, 3600.0)}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (QueueConfig(name="q"), QUEUE_DEFAULTS),
        (Config().queue("q"), QUEUE_DEFAULTS),
        (WorkerConfig(), WORKER_DEFAULTS),
        (Config().worker, WORKER_DEFAULTS),
    ],
    ids=["queue alone", "queue not in the file", "worker alone", "worker of a config"],
)
def test_defaults(found, expected):
    """Every key has the default of the configuration page, and no key is missing there."""
    assert {key: getattr(found, key) for key in keys_of(type(found))} == expected


def test_defaults_of_levels_and_redis():
    """The four levels have their numbers; without a file Redis is not named and keys begin with ``queue``."""
    config = Config()
    assert {name: (c.priority, c.max_workers, c.timeout) for name, c in config.levels.items()} == LEVEL_DEFAULTS
    assert tuple(config.levels) == LEVELS
    assert (config.redis_url, config.prefix, config.errors) == (None, "queue", ErrorRules())
    assert list(config.problems()) == []


# --- one queue


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_gives_max_consumers_and_ack_timeout(level):
    """A queue that does not say how many and how long gets it from its level, even when the level comes by default."""
    _, workers, timeout = LEVEL_DEFAULTS[level]
    for config in (Config(defaults={"priority": level}), Config()):
        own = {} if config.defaults else {"priority": level}
        queue = resolve_queue("q", own, config.defaults, config.levels)
        assert (queue.priority, queue.max_consumers, queue.ack_timeout) == (level, workers, timeout)


@pytest.mark.parametrize(
    ("own", "defaults", "exponential"),
    [
        ({}, {}, True),
        ({"max_retries": 1}, {}, True),
        ({"retry_delay": 60.0}, {}, False),
        ({}, {"retry_delay": 60.0}, False),
        ({"retry_delay": 60.0, "exponential_backoff": True}, {}, True),
        ({"retry_delay": 60.0}, {"exponential_backoff": True}, True),
        ({"exponential_backoff": False}, {}, False),
    ],
)
def test_a_given_retry_delay_is_meant_literally(own, defaults, exponential):
    """``exponential_backoff`` is false when ``retry_delay`` is given, else true, unless it is given itself."""
    assert resolve_queue("q", own, defaults, Config().levels).exponential_backoff is exponential


def test_the_queue_beats_defaults_beats_its_level():
    """The nearest word counts, and null on a queue takes back what ``defaults`` says."""
    defaults = {"ack_timeout": 7.0, "max_consumers": 3, "max_age": 60.0}
    config = Config(defaults=defaults, queues={"a": resolve_queue("a", {"max_age": None}, defaults, Config().levels)})
    assert (config.queue("a").ack_timeout, config.queue("a").max_age) == (7.0, None)
    assert (config.queue("b").max_consumers, config.queue("b").max_age) == (3, 60.0)
    assert resolve_queue("c", {"ack_timeout": 8.0}, defaults, config.levels).ack_timeout == 8.0
    assert config.queue("a") is config.queues["a"]


@pytest.mark.parametrize("name", ["a", "0", "email_queue", "a.b-c_d", "x" * 64])
def test_names_of_queues(name):
    """What the protocol allows is a queue, in the file or not."""
    assert Config().queue(name).name == name


@pytest.mark.parametrize("name", ["", "A", "_a", ".a", "a b", "a:b", "a\n", "ä", "x" * 65, "{a}"])
def test_names_that_are_no_queue(name):
    """Any other name is refused with the pattern of the right ones."""
    with pytest.raises(ConfigError, match=r"is no name for a queue, expected \[a-z0-9\]\[a-z0-9\._-\]\{0,63\}$"):
        Config().queue(name)


@pytest.mark.parametrize("name", ["dead_letter", "names"])
def test_reserved_names(name):
    """The names of our own keys are no queues."""
    with pytest.raises(ConfigError, match=f"^'{name}' is reserved, expected another name for the queue$"):
        Config().queue(name)


# --- combinations

BACKOFF = "expected at most 10m, or exponential_backoff: false"
RISING = "expected priority numbers that rise from critical to low"


@pytest.mark.parametrize(
    ("config", "paths", "text"),
    [
        (
            Config(worker=WorkerConfig(beat_interval=12.0)),
            (("worker", "beat_interval"), ("worker", "silent_after")),
            "a worker that beats every 12s counts as dead after 12s, expected a shorter beat_interval",
        ),
        (
            Config(levels={**Config().levels, "low": LevelConfig(priority=3, max_workers=1, timeout=1.0)}),
            (("queue_priorities", "normal", "priority"), ("queue_priorities", "low", "priority")),
            f"normal has to come before low, {RISING}",
        ),
        (
            Config(defaults={"retry_delay": 601.0, "exponential_backoff": True}),
            (
                *(("queues", "", key) for key in ("retry_delay", "max_retry_delay", "exponential_backoff")),
                *(("defaults", key) for key in ("retry_delay", "max_retry_delay", "exponential_backoff")),
            ),
            f"retry_delay 601s is longer than max_retry_delay 10m, {BACKOFF}",
        ),
    ],
    ids=["beat", "levels", "backoff"],
)
def test_impossible_combinations(config, paths, text):
    """Values that cannot work together are found, with the keys that may be to blame."""
    (problem,) = config.problems()
    assert (problem.paths, problem.text) == (paths, text)


@pytest.mark.parametrize(
    "config",
    [
        Config(worker=WorkerConfig(beat_interval=11.9)),
        Config(defaults={"retry_delay": 600.0, "exponential_backoff": True}),
        Config(queues={"q": QueueConfig(name="q", retry_delay=601.0, exponential_backoff=False)}),
        Config(queues={"q": QueueConfig(name="q", block_timeout=5.0, on_full="reject")}),
    ],
    ids=["beat", "backoff", "fixed delay", "block_timeout alone"],
)
def test_possible_combinations(config):
    """What only looks odd, or touches a limit, is allowed."""
    assert list(config.problems()) == []


@pytest.mark.parametrize(
    ("queue", "seconds"),
    [
        ({"max_retries": 0, "max_deliveries": 3, "lease": 10.0}, 30),
        ({"max_retries": 3, "retry_delay": 10.0, "exponential_backoff": False, "max_deliveries": 1}, 36 + 30),
        ({"max_retries": 4, "retry_delay": 10.0, "max_retry_delay": 30.0, "max_deliveries": 1}, 1.2 * 90 + 30),
        ({"max_retries": 1000, "max_retry_delay": 1.0, "max_deliveries": 1}, 1200 + 30),
    ],
    ids=["losses", "fixed delay", "growing delay", "many retries"],
)
def test_how_long_a_message_may_come_back(queue, seconds):
    """All its retries with their jitter, and a lease for each worker that it may lose."""
    defaults = {"exponential_backoff": True, **queue}
    assert QueueConfig(name="q", **defaults).horizon() == pytest.approx(seconds)


# --- single values

KEYS = {**keys_of(QueueConfig), **keys_of(WorkerConfig), **keys_of(Config), **keys_of(LevelConfig)} | {
    "level": keys_of(LevelConfig)["priority"],
    "priority": keys_of(QueueConfig)["priority"],
}


@pytest.mark.parametrize(
    ("key", "raw", "value"),
    [
        ("lease", "1s", 1.0),
        ("lease", 30, 30.0),
        ("block", 0.5, 0.5),
        ("block", "1ms", 0.001),
        ("retry_delay", "0s", 0.0),
        ("drain_timeout", 0, 0.0),
        ("unknown_type_timeout", "0s", 0.0),
        ("max_age", None, None),
        ("max_age", "1d", 86400.0),
        ("max_age", "3650d", 3650 * 86400.0),
        ("max_size", "1MiB", HARD_MAX_SIZE),
        ("max_size", 1000, 1000),
        ("max_length", 0, 0),
        ("max_retries", 0, 0),
        ("max_consumers", 1, 1),
        ("exponential_backoff", False, False),
        ("on_full", "drop_oldest", "drop_oldest"),
        ("signing", None, None),
        ("signing", "required", "required"),
        ("consumer_group", "a:B.c-1_" + "x" * 56, "a:B.c-1_" + "x" * 56),
        ("redis_url", None, None),
        ("redis_url", "redis://:pw@h", "redis://:pw@h"),
    ],
)
def test_values(key, raw, value):
    """Values are converted to seconds, bytes and plain types; the limits themselves are allowed."""
    found = parse_value(KEYS[key], raw)
    assert found == value
    assert isinstance(found, type(value))


@pytest.mark.parametrize(
    ("key", "raw", "text"),
    [
        ("lease", "999ms", "999ms is too little, expected at least 1s"),
        ("block", 0, "0s is too little, expected at least 1ms"),
        ("ack_timeout", "0s", "0s is too little, expected at least 1ms"),
        ("max_age", "3651d", "3651d is too much, expected at most 3650d"),
        ("max_size", "1025KiB", "1025KiB is too much, expected at most 1MiB"),
        ("max_size", 0, "0B is too little, expected at least 1B"),
        ("max_size", -1, "-1 is no size, expected one such as 256KiB or 1MiB"),
        ("max_consumers", 0, "0 is too little, expected at least 1"),
        ("max_length", -1, "-1 is too little, expected at least 0"),
        ("max_length", 10**9 + 1, "1000000001 is too much, expected at most 1000000000"),
        ("max_retries", "3", "'3' is no count, expected a whole number such as 5"),
        ("max_retries", 3.0, "3.0 is no count, expected a whole number such as 5"),
        ("max_retries", True, "true is no count, expected a whole number such as 5"),
        ("max_retries", None, "null is no count, expected a whole number such as 5"),
        ("level", 0, "0 is too little, expected at least 1"),
        ("exponential_backoff", "yes", "'yes' is not usable, expected true or false"),
        ("exponential_backoff", 1, "1 is not usable, expected true or false"),
        ("on_full", "drop", "'drop' is not usable, expected reject, block or drop_oldest"),
        ("durable", "always", "'always' is not usable, expected memory, replica or fsync"),
        ("priority", 3, "3 is not usable, expected critical, high, normal or low"),
        ("signing", "none", "'none' is not usable, expected required or optional"),
        ("delivery", "exactly_once", "'exactly_once' is not usable, expected at_least_once (others come later)"),
        ("consumer_group", "", "'' is not usable, expected text that matches [A-Za-z0-9._:-]{1,64}"),
        ("consumer_group", "a b", "'a b' is not usable, expected text that matches [A-Za-z0-9._:-]{1,64}"),
        ("consumer_group", [], "a list is not usable, expected text that matches [A-Za-z0-9._:-]{1,64}"),
        ("prefix", "{q}", "this text is not usable, expected text that matches [A-Za-z0-9._:-]{1,64}"),
        ("redis_url", "hunter2", "this text is not usable, expected a URL such as redis://HOST:PORT/DB"),
        ("redis_url", 6379, "6379 is not usable, expected a URL such as redis://HOST:PORT/DB"),
    ],
)
def test_values_that_are_refused(key, raw, text):
    """A refusal says what is wrong and what would be right."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        parse_value(KEYS[key], raw)
    assert str(caught.value) == text


# --- durations, sizes


@pytest.mark.parametrize(
    ("text", "seconds", "again"),
    [
        ("500ms", 0.5, "500ms"),
        ("30s", 30.0, "30s"),
        ("5m", 300.0, "5m"),
        ("1h", 3600.0, "1h"),
        ("1d", 86400.0, "1d"),
        ("24h", 86400.0, "1d"),
        ("90s", 90.0, "90s"),
        ("1800s", 1800.0, "30m"),
        ("2500ms", 2.5, "2.5s"),
        ("1.5h", 5400.0, "90m"),
        ("0s", 0.0, "0s"),
        ("1ms", 0.001, "1ms"),
        (0.0000001, 0.0000001, "0.0000001s"),
        (-0.0, 0.0, "0s"),
        (2, 2.0, "2s"),
    ],
)
def test_durations(text, seconds, again):
    """A duration becomes seconds, and the shortest text for them."""
    assert parse_duration(text) == seconds
    assert format_duration(parse_duration(text)) == again


@pytest.mark.parametrize(
    "value",
    [
        *["", "30", "s", "-5s", "+5s", "5 s", " 5s", "5s\n", "5S", "5sec", "1h30m", ".5s", "5.s", "1e3s", "٣s", "infs"],
        *["9" * 400 + "s", -1, -0.1, math.inf, math.nan, 10**400, -(10**400), True, None, [], {}],
    ],
    ids=str,
)
def test_no_durations(value):
    """Anything else is refused with examples, whatever its size."""
    with pytest.raises(ValueError, match=r" is no duration, expected one such as 500ms, 30s, 5m, 1h or 1d$"):
        parse_duration(value)


@given(st.floats(min_value=0, max_value=1e15))
def test_durations_round_trip(seconds):
    """What is written reads back as exactly the same time."""
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(min_value=1, max_value=10**9), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_durations_are_not_longer_than_written(count, unit):
    """A duration is shown as short as somebody would write it, with nothing lost."""
    text = f"{count}{unit}"
    assert len(format_duration(parse_duration(text))) <= len(text)


@pytest.mark.parametrize(
    ("text", "size", "again"),
    [
        ("256KiB", 262144, "256KiB"),
        ("1MiB", 1048576, "1MiB"),
        ("1024KiB", 1048576, "1MiB"),
        ("7B", 7, "7B"),
        (0, 0, "0B"),
        (1000, 1000, "1000B"),
        (2048, 2048, "2KiB"),
    ],
)
def test_sizes(text, size, again):
    """A size becomes bytes, and the shortest text for them."""
    assert parse_size(text) == size
    assert format_size(size) == again


@pytest.mark.parametrize(
    "value", ["", "256", "256KB", "256kib", "1.5MiB", "1 MiB", "-1B", "9" * 5000 + "B", -1, 1.0, True]
)
def test_no_sizes(value):
    """Anything else is refused with examples."""
    with pytest.raises(ValueError, match=r" is no size, expected one such as 256KiB or 1MiB$"):
        parse_size(value)


@given(st.integers(min_value=0, max_value=10**12))
def test_sizes_round_trip(size):
    """What is written reads back as exactly as many bytes."""
    assert parse_size(format_size(size)) == size


# --- what errors and logs may show


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("30", "'30'"),
        ("-5 s", "'-5 s'"),
        ("", "''"),
        ("redis://:pw@h", "this text"),
        ("k1:active:AAAA", "this text"),
        ("q83vEjRWeJq83vEjRWeJq83vEjRWeJq83vEjRWeJ", "this text"),
        ("a\nb", "this text"),
        (True, "true"),
        (None, "null"),
        (1.5, "1.5"),
        (10**5000, "this number"),
        ({}, "a mapping"),
        ([], "a list"),
    ],
    ids=lambda value: str(value)[:20] if not isinstance(value, int) else type(value).__name__,
)
def test_only_short_plain_text_is_quoted(value, text):
    """What may be a secret in the wrong place is not repeated."""
    assert show(value) == text


def test_a_secret_does_not_show_itself():
    """A secret is text to who uses it, and stars in a repr, also inside a config."""
    secret = Secret("redis://:hunter2@h")
    assert secret == "redis://:hunter2@h"
    assert repr(secret) == "'***'"
    assert "hunter2" not in repr(Config(redis_url=secret))
    assert "hunter2" not in repr(parse_value(KEYS["redis_url"], "redis://:hunter2@h"))


# --- the tree


def test_one_of():
    """Names are listed as one says them."""
    assert [one_of(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a or b", "a, b or c"]


def test_suggestions():
    """The nearest known name is proposed; without one, all of them."""
    assert suggest("max_retry", keys_of(QueueConfig)) == "did you mean 'max_retries'?"
    assert suggest("zzz", ["a", "b"]) == "expected a or b"


def test_children_of_the_tree():
    """The tree knows fixed keys, the user's own names, and what may not stand there."""
    queues = child(tree(), "queues")
    assert isinstance(child(child(queues, "anything"), "lease"), Key)
    assert isinstance(child(child(tree(), "errors"), "quota exceeded"), Key)
    for node, name, text in [
        (tree(), "queue", "'queue' is no key here, did you mean 'queues'?"),
        (tree(), "k1:active:AAAA", "this text is no key here, expected redis, "),
        (queues, "names", "'names' is reserved"),
        (queues, "A", "'A' is no name for a queue"),
        (child(tree(), "errors"), " ", "an empty name matches everything"),
    ]:
        with pytest.raises(ConfigError, match=re.escape(text)):
            child(node, name)


def test_values_are_written_as_in_the_file():
    """Durations and sizes are texts with a unit, the rest is itself."""
    pairs = [("lease", 30.0), ("max_size", 262144), ("max_retries", 3), ("max_age", None), ("priority", "low")]
    assert [format_value(KEYS[key], value) for key, value in pairs] == ["30s", "256KiB", 3, None, "low"]


def test_schema_knows_every_key_and_nothing_else():
    """The editors' schema describes each key, with its default where that is certain, and closes each section."""
    top = schema(tree())
    assert (top["type"], top["additionalProperties"]) == (["object", "null"], False)
    queue = top["properties"]["queues"]["additionalProperties"]
    sections = {
        "redis": {"url", "prefix"},
        "defaults": QUEUE_DEFAULTS.keys(),
        "worker": WORKER_DEFAULTS.keys(),
        "queue_priorities": LEVEL_DEFAULTS.keys(),
    }
    for section, names in sections.items():
        found = top["properties"][section]
        assert (found["properties"].keys(), found["additionalProperties"]) == (names, False)
    assert (queue["properties"].keys(), queue["additionalProperties"]) == (QUEUE_DEFAULTS.keys(), False)
    for key, found in queue["properties"].items():
        assert found["description"] == KEYS[key].doc
    undefined = {key for key, found in queue["properties"].items() if "default" not in found}
    assert undefined == {"max_consumers", "ack_timeout", "exponential_backoff", "signing"}
    assert queue["properties"]["lease"]["default"] == "30s"
    names = top["properties"]["queues"]["propertyNames"]
    assert names == {"pattern": "^[a-z0-9][a-z0-9._-]{0,63}$", "not": {"enum": ["dead_letter", "names"]}}


@pytest.mark.parametrize(
    ("key", "form"),
    [
        ("max_consumers", {"type": "integer", "minimum": 1, "maximum": 10**9}),
        ("exponential_backoff", {"type": "boolean"}),
        ("on_full", {"enum": ["reject", "block", "drop_oldest"]}),
        ("durable", {"enum": ["memory", "replica", "fsync"]}),
        ("signing", {"enum": ["required", "optional", None]}),
        ("prefix", {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,64}$"}),
        ("redis_url", {"type": ["string", "null"], "pattern": "^[A-Za-z+]+://"}),
        (
            "max_size",
            {
                "anyOf": [
                    {"type": "string", "pattern": "^[0-9]+(B|KiB|MiB)$"},
                    {"type": "integer", "minimum": 1, "maximum": HARD_MAX_SIZE},
                ]
            },
        ),
        (
            "max_age",
            {
                "anyOf": [
                    {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(ms|s|m|h|d)$"},
                    {"type": "number", "minimum": 0.001, "maximum": 315360000.0},
                    {"type": "null"},
                ]
            },
        ),
    ],
)
def test_schema_of_a_key(key, form):
    """The schema allows the forms that the loader takes."""
    assert schema(KEYS[key]) == {"description": KEYS[key].doc, **form}
