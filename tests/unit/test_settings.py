"""The file, the environment, and what is said about what is wrong in them."""

import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamq.core.config import LEVELS, Config, ErrorRules, QueueConfig, WorkerConfig, keys_of
from streamq.core.errors import ConfigError
from streamq.settings import Settings, config_schema, effective, load_settings

ROOT = Path(__file__).parents[2]
FILE = "config/queues.yaml"
PASSWORD = "hunter2"


@pytest.fixture
def load(tmp_path):
    """Load a file of this text with this environment; without a text there is no file."""

    def load(text=None, environ=None, **options):
        if text is not None:
            path = tmp_path / FILE
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).encode())
        return load_settings(environ=environ or {}, start=tmp_path, **options)

    return load


@pytest.fixture
def refused(load):
    """Load what cannot be loaded, and return the text of the error."""

    def refused(*args, **options):
        with pytest.raises(ConfigError) as caught:
            load(*args, **options)
        return str(caught.value)

    return refused


# --- good files


@pytest.mark.parametrize(
    "text", [None, "", "# nothing\n", "{}", "queues:\ndefaults:\nworker: null\nredis: ~\n", "\ufeff{}"]
)
def test_nothing_said_means_the_defaults(load, text):
    """No file, an empty one and empty sections are the same."""
    settings = load(text)
    assert settings.config == Config()
    assert settings == Settings(config=Config(), config_path=settings.config_path, origins=settings.origins)
    assert set(settings.origins.values()) == {"default"}


def test_every_key_is_read(load):
    """What the file says arrives in seconds and bytes, for each section."""
    settings = load("""\
        redis: {url: "redis://h/1", prefix: app}
        queue_priorities: {low: {max_workers: 1, timeout: 2h, priority: 9}}
        defaults: {max_retries: 7}
        errors: {SmtpBusy: transient, quota exceeded: non_retryable}
        worker:
          {block: 1s, beat_interval: 1s, silent_after: 6s, drain_timeout: 0s, seen_window: 1m, idempotency_window: 1h}
        queues:
          a:
            priority: low
            consumer_group: g
            max_consumers: 2
            max_length: 0
            on_full: block
            block_timeout: 1s
            durable: fsync
            lease: 3s
            ack_timeout: 4s
            max_retries: 0
            retry_delay: 2s
            exponential_backoff: true
            max_retry_delay: 5s
            delivery: at_least_once
            signing: optional
            max_size: 1KiB
            unknown_type_timeout: 5s
            unknown_key_timeout: 6s
            max_deliveries: 3
            max_age: 1d
            healthy_below: 4
            healthy_pending_below: 5
          b: {priority: low}
    """)
    config = settings.config
    assert (config.redis_url, config.prefix) == ("redis://h/1", "app")
    low = config.levels["low"]
    assert (low.priority, low.max_workers, low.timeout) == (9, 1, 7200.0)
    assert config.levels["high"] == Config().levels["high"]
    rules = {"SmtpBusy": "transient", "quota exceeded": "non_retryable"}
    assert config.errors == ErrorRules(types=rules, words=rules)
    assert config.worker == WorkerConfig(
        block=1, beat_interval=1, silent_after=6, drain_timeout=0, seen_window=60, idempotency_window=3600
    )
    assert config.queues["a"] == QueueConfig(
        name="a",
        priority="low",
        consumer_group="g",
        max_consumers=2,
        max_length=0,
        on_full="block",
        block_timeout=1,
        durable="fsync",
        lease=3,
        ack_timeout=4,
        max_retries=0,
        retry_delay=2,
        exponential_backoff=True,
        max_retry_delay=5,
        signing="optional",
        max_size=1024,
        unknown_type_timeout=5,
        unknown_key_timeout=6,
        max_deliveries=3,
        max_age=86400,
        healthy_below=4,
        healthy_pending_below=5,
    )
    b = config.queue("b")
    assert (b.max_consumers, b.ack_timeout, b.max_retries) == (1, 7200.0, 7)
    assert config.queue("not.there").max_retries == 7


def test_an_anchor_repeats_a_value(load):
    """An alias stands for what its anchor holds."""
    config = load("queues: {a: &same {max_retries: 1}, b: *same}").config
    assert config.queue("b").max_retries == 1


# --- bad files: every error has its place

# What the errors have in common.
NAMES = "expected [a-z0-9][a-z0-9._-]{0,63}"
SECTIONS = "expected redis, queue_priorities, defaults, queues, worker or errors"
DURATION = "is no duration, expected one such as 500ms, 30s, 5m, 1h or 1d"
COUNT = "is no count, expected a whole number such as 5"
MAPPING = "is not usable, expected a mapping of keys to values"
LABEL = "is not usable, expected text that matches [A-Za-z0-9._:-]{1,64}"
RISING = "expected priority numbers that rise from critical to low"
SHORTER = "expected a shorter beat_interval"
BACKOFF = "or exponential_backoff: false"
YAML = "expected matching quotes, brackets, indentation"

BAD_FILES = [
    ("queue: {}", "1:1: 'queue' is no key here, did you mean 'queues'?"),
    ("zzz: 1", f"1:1: 'zzz' is no key here, {SECTIONS}"),
    ("queues:\n  a: {max_retry: 1}", "2:7: 'max_retry' is no key here, did you mean 'max_retries'?"),
    ("defaults:\n  leese: 1s", "2:3: 'leese' is no key here, did you mean 'lease'?"),
    ("worker: {blok: 1s}", "1:10: 'blok' is no key here, did you mean 'block'?"),
    ("redis: {port: 1}", "1:9: 'port' is no key here, expected url or prefix"),
    ("queue_priorities: {urgent: {}}", "1:20: 'urgent' is no key here, expected critical, high, normal or low"),
    ("queue_priorities:\n  low: {timout: 1s}", "2:9: 'timout' is no key here, did you mean 'timeout'?"),
    ("queues: {names: {}}", "1:10: 'names' is reserved, expected another name for the queue"),
    ("queues: {dead_letter: {}}", "1:10: 'dead_letter' is reserved, expected another name for the queue"),
    ("queues: {Email: {}}", f"1:10: 'Email' is no name for a queue, {NAMES}"),
    ("queues: {a: {}, a: {}}", "1:17: 'a' is here twice, expected it once (it is in line 1 already)"),
    (
        "queues:\n  a:\n    lease: 5s\n    lease: 6s",
        "4:5: 'lease' is here twice, expected it once (it is in line 3 already)",
    ),
    ("worker: {}\nworker: {}", "2:1: 'worker' is here twice, expected it once (it is in line 1 already)"),
    ("queues: {<<: {}}", f"1:10: this text is no name for a queue, {NAMES}"),
    ("queues: {[a]: {}}", "1:10: a list is no key, expected a name"),
    ("queues: {{a: b}: {}}", "1:10: a mapping is no key, expected a name"),
    ("? text\n: more", f"1:3: 'text' is no key here, {SECTIONS}"),
    ("[]", f"1:1: the file: a list {MAPPING}"),
    ("text", f"1:1: the file: a single value {MAPPING}"),
    ("queues: [a]", f"1:9: queues: a list {MAPPING}"),
    ("queues: {a: 5}", f"1:13: a: a single value {MAPPING}"),
    ("queues: {a: {lease: [1]}}", f"1:21: lease: a list {DURATION}"),
    ("queues: {a: {lease: !x 5s}}", "1:21: a tag means nothing here, expected the value alone"),
    ("queues: !x {}", "1:9: a tag means nothing here, expected the value alone"),
    ("queues:\n  a:\n    lease: 500ms", "3:12: lease: 500ms is too little, expected at least 1s"),
    ("queues: {a: {lease: '30'}}", f"1:21: lease: '30' {DURATION}"),
    ("queues: {a: {lease: 1:30}}", f"1:21: lease: this text {DURATION}"),
    ("queues: {a: {lease: .inf}}", f"1:21: lease: '.inf' {DURATION}"),
    ("queues: {a: {lease: 1e999}}", f"1:21: lease: this number {DURATION}"),
    ("queues: {a: {lease: }}", f"1:20: lease: null {DURATION}"),
    ("queues: {a: {max_retries: -1}}", "1:27: max_retries: -1 is too little, expected at least 0"),
    ("queues: {a: {max_retries: '3'}}", f"1:27: max_retries: '3' {COUNT}"),
    ("queues: {a: {max_retries: 0x10}}", f"1:27: max_retries: '0x10' {COUNT}"),
    ("queues: {a: {max_retries: 1_000}}", f"1:27: max_retries: '1_000' {COUNT}"),
    ("queues: {a: {max_size: 2MiB}}", "1:24: max_size: 2MiB is too much, expected at most 1MiB"),
    ("queues: {a: {consumer_group: ''}}", f"1:30: consumer_group: '' {LABEL}"),
    ("queues: {a: {consumer_group: 5}}", f"1:30: consumer_group: 5 {LABEL}"),
    ("queues: {a: {exponential_backoff: on}}", "1:35: exponential_backoff: 'on' is not usable, expected true or false"),
    ("queues: {a: {on_full: wait}}", "1:23: on_full: 'wait' is not usable, expected reject, block or drop_oldest"),
    (
        "queues: {a: {delivery: at_most_once}}",
        "1:24: delivery: 'at_most_once' is not usable, expected at_least_once (others come later)",
    ),
    ("defaults: {priority: urgent}", "1:22: priority: 'urgent' is not usable, expected critical, high, normal or low"),
    ("redis: {prefix: 'a b'}", f"1:17: prefix: 'a b' {LABEL}"),
    (
        "errors: {Oops: fatal}",
        "1:16: Oops: 'fatal' is not usable, expected transient, permanent, retryable or non_retryable",
    ),
    (
        "errors: {'': transient}",
        "1:10: an empty name matches everything, expected the name of an exception type or words of its text",
    ),
    ("worker: {block: 0s}", "1:17: block: 0s is too little, expected at least 1ms"),
    # impossible together: at the nearest key that somebody wrote
    ("worker: {silent_after: 2s}", f"1:24: a worker that beats every 2.5s counts as dead after 2s, {SHORTER}"),
    ("worker:\n  beat_interval: 12s", f"2:18: a worker that beats every 12s counts as dead after 12s, {SHORTER}"),
    ("queue_priorities: {high: {priority: 1}}", f"1:37: critical has to come before high, {RISING}"),
    (
        "queues: {a: {max_retry_delay: 500ms}}",
        f"1:31: retry_delay 1s is longer than max_retry_delay 500ms, expected at most 500ms, {BACKOFF}",
    ),
    (
        "defaults: {retry_delay: 1h}\nqueues: {a: {exponential_backoff: true}}",
        f"2:35: retry_delay 1h is longer than max_retry_delay 10m, expected at most 10m, {BACKOFF}",
    ),
    (
        "defaults: {retry_delay: 1h, exponential_backoff: true}\nqueues: {a: {}, default: {}}",
        f"1:25: retry_delay 1h is longer than max_retry_delay 10m, expected at most 10m, {BACKOFF}",
    ),
    # not YAML at all
    ("queues: {a: {}", f"1:15: not YAML: expected ',' or '}}', but got '<stream end>'; {YAML}"),
    ("queues:\n\ta: {}", f"2:1: not YAML: found character '\\t' that cannot start any token; {YAML}"),
    ("a: 1\n---\nb: 2", f"2:1: not YAML: but found another document; {YAML}"),
    ("redis: {url: *hunter2}", f"1:14: not YAML: found undefined alias '...'; {YAML}"),
    (b"queues:\n  a: \xff", "2:6: not UTF-8, expected a YAML file in UTF-8"),
    ("queues:\n  a\x07b: {}", "2:4: a control character, expected printable text"),
]


@pytest.mark.parametrize(("text", "error"), BAD_FILES, ids=lambda part: repr(part)[:60])
def test_bad_files(refused, text, error):
    """An error names file, line and column, what is wrong and what would be right."""
    assert refused(text) == f"{FILE}:{error}"


def test_all_errors_at_once_in_order(refused):
    """Whoever mends a file learns of everything in one go; combinations wait for sound values."""
    text = "worker: {silent_after: 1s, block: x}\nqueues: {a: {lease: 1}, names: {}}\nfoo: 1\n"
    found = refused(text, {"STREAMQ_A__B": "1", "STREAMQ_WORKER__BLOCK": "y"})
    assert [line.rsplit(": ", 1)[0].split(": ")[0] for line in found.splitlines()] == [
        f"{FILE}:1:35",
        f"{FILE}:2:25",
        f"{FILE}:3:1",
        "STREAMQ_A__B",
        "STREAMQ_WORKER__BLOCK",
    ]


def test_nested_too_deeply(refused):
    """A file that would exhaust the stack is refused like any other."""
    assert refused("[" * 5000) == f"{FILE}: nested too deeply, expected three levels"


# --- finding the file


def test_the_file_is_found_upwards(tmp_path):
    """The nearest ``config/queues.yaml`` from the working directory upwards counts; errors name it from there."""
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    for folder, prefix in [(tmp_path, "outer"), (tmp_path / "a", "inner")]:
        (folder / "config").mkdir()
        (folder / FILE).write_text(f"redis: {{prefix: {prefix}}}")
    settings = load_settings(environ={}, start=inner)
    assert (settings.config.prefix, settings.config_path) == ("inner", tmp_path / "a" / FILE)
    assert settings.origins["redis.prefix"] == f"../{FILE}:1"


def test_the_working_directory_is_where_it_starts(tmp_path, monkeypatch, load):
    """Without a start the search begins in the working directory, and the real environment is read when called."""
    load("redis: {prefix: here}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STREAMQ_DEFAULTS__MAX_RETRIES", "9")
    settings = load_settings()
    assert (settings.config.prefix, settings.config.queue("q").max_retries) == ("here", 9)


def test_a_named_file_wins(tmp_path, load, refused):
    """``--config`` beats ``STREAMQ_CONFIG`` beats the search; errors call the file as the user did."""
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(f"redis: {{prefix: {name}}}")
    environ = {"STREAMQ_CONFIG": str(tmp_path / "two.yaml")}
    assert load("redis: {prefix: found}", environ).config.prefix == "two"
    assert load(environ=environ, config=tmp_path / "one.yaml").config.prefix == "one"
    (tmp_path / "one.yaml").write_text("x: 1")
    assert refused(config=tmp_path / "one.yaml").startswith(f"{tmp_path}/one.yaml:1:1: 'x' is no key here")


@pytest.mark.parametrize(
    ("name", "why"), [("none.yaml", "No such file or directory"), (".", "Is a directory")], ids=["missing", "folder"]
)
def test_a_named_file_that_cannot_be_read(tmp_path, refused, name, why):
    """A file that somebody named and that cannot be read stops the start."""
    path = tmp_path / name
    assert refused(config=path) == f"{path}: cannot be read: {why}, expected a YAML file"


@pytest.mark.parametrize("ours", [True, False])
def test_a_folder_that_may_not_be_looked_into(tmp_path, monkeypatch, refused, ours):
    """Our own unreadable file stops the start; somebody else's further up is as good as none."""
    start = tmp_path if ours else tmp_path / "below"
    start.mkdir(exist_ok=True)
    locked = tmp_path / FILE

    def is_file(path):
        if path == locked:
            raise PermissionError
        return False

    monkeypatch.setattr(Path, "is_file", is_file)
    if ours:
        with pytest.raises(ConfigError, match=f"^{FILE}: cannot be read: "):
            load_settings(environ={}, start=start)
    else:
        assert load_settings(environ={}, start=start).config_path is None


# --- the environment


@pytest.mark.parametrize(
    ("name", "text", "look", "value"),
    [
        ("STREAMQ_QUEUES__EMAIL_QUEUE__MAX_RETRIES", "5", lambda c: c.queues["email_queue"].max_retries, 5),
        ("STREAMQ_QUEUES__EMAIL_QUEUE__LEASE", "5", lambda c: c.queues["email_queue"].lease, 5.0),
        ("STREAMQ_QUEUES__EMAIL_QUEUE__MAX_SIZE", "1MiB", lambda c: c.queues["email_queue"].max_size, 2**20),
        ("STREAMQ_QUEUES__EMAIL_QUEUE__MAX_AGE", "null", lambda c: c.queues["email_queue"].max_age, None),
        ("STREAMQ_QUEUES__email_queue__SIGNING", "optional", lambda c: c.queues["email_queue"].signing, "optional"),
        ("STREAMQ_QUEUES__EMAIL_QUEUE__CONSUMER_GROUP", "12", lambda c: c.queues["email_queue"].consumer_group, "12"),
        (
            "STREAMQ_QUEUES__EMAIL_QUEUE__EXPONENTIAL_BACKOFF",
            "false",
            lambda c: c.queues["email_queue"].exponential_backoff,
            False,
        ),
        ("STREAMQ_QUEUES__A_B_C__MAX_RETRIES", "5", lambda c: c.queues["a-b.c"].max_retries, 5),
        ("STREAMQ_QUEUES__D__E__MAX_RETRIES", "5", lambda c: c.queues["d__e"].max_retries, 5),
        ("STREAMQ_QUEUES__NEW_ONE__MAX_RETRIES", "5", lambda c: c.queues["new_one"].max_retries, 5),
        ("STREAMQ_DEFAULTS__MAX_RETRIES", "5", lambda c: c.queue("other").max_retries, 5),
        ("STREAMQ_WORKER__BLOCK", "1s", lambda c: c.worker.block, 1.0),
        ("STREAMQ_REDIS__PREFIX", "app", lambda c: c.prefix, "app"),
        ("STREAMQ_REDIS__URL", "redis://x", lambda c: c.redis_url, "redis://x"),
        ("STREAMQ_QUEUE_PRIORITIES__HIGH__TIMEOUT", "1m", lambda c: c.queue("urgent").ack_timeout, 60.0),
        ("STREAMQ_ERRORS__SMTPBUSY", "transient", lambda c: c.errors.types["SmtpBusy"], "transient"),
        ("STREAMQ_ERRORS__QUOTA__X", "permanent", lambda c: c.errors.words["quota__x"], "permanent"),
    ],
)
def test_a_variable_sets_any_key(load, name, text, look, value):
    """A variable beats the file, is written as in the file, and is named as the origin."""
    settings = load(
        """\
        redis: {prefix: file}
        errors: {SmtpBusy: permanent}
        queues:
          email_queue: {max_retries: 1, max_age: 1h, consumer_group: g, lease: 9s}
          a-b.c: {max_retries: 1}
          d__e: {}
          urgent: {priority: high}
        """,
        {name: text},
    )
    assert look(settings.config) == value
    assert name in settings.origins.values()


@pytest.mark.parametrize(
    ("environ", "error"),
    [
        (
            {"STREAMQ_FOO__BAR": "1"},
            f"STREAMQ_FOO__BAR: 'foo' is no key here, {SECTIONS}",
        ),
        ({"STREAMQ_WORKER__BLOK": "1"}, "STREAMQ_WORKER__BLOK: 'blok' is no key here, did you mean 'block'?"),
        ({"STREAMQ_WORKER__BLOCK__X": "1"}, "STREAMQ_WORKER__BLOCK__X: 'worker.block' is a key, expected SECTION__KEY"),
        ({"STREAMQ_QUEUES__A": "1"}, "STREAMQ_QUEUES__A: 'queues.a' is a section, expected SECTION__KEY"),
        (
            {"STREAMQ_QUEUES__NAMES__LEASE": "1"},
            "STREAMQ_QUEUES__NAMES__LEASE: 'names' is reserved, expected another name for the queue",
        ),
        (
            {"STREAMQ_QUEUES___A__LEASE": "1"},
            f"STREAMQ_QUEUES___A__LEASE: '_a' is no name for a queue, {NAMES}",
        ),
        (
            {"STREAMQ_WORKER__BLOCK": "x"},
            f"STREAMQ_WORKER__BLOCK: block: 'x' {DURATION}",
        ),
        (
            {"STREAMQ_QUEUES__A__MAX_RETRIES": "many"},
            f"STREAMQ_QUEUES__A__MAX_RETRIES: max_retries: 'many' {COUNT}",
        ),
        (
            {"STREAMQ_QUEUES__X_Y__LEASE": "5s"},
            "STREAMQ_QUEUES__X_Y__LEASE: this may mean x-y or x.y, expected the key in the file instead",
        ),
        (
            {"STREAMQ_QUEUES__A__LEASE": "5s", "STREAMQ_QUEUES__a__LEASE": "6s"},
            "STREAMQ_QUEUES__a__LEASE: STREAMQ_QUEUES__A__LEASE sets the same key, expected one of the two",
        ),
        (
            {"STREAMQ_WORKER__SILENT_AFTER": "1s"},
            f"STREAMQ_WORKER__SILENT_AFTER: a worker that beats every 2.5s counts as dead after 1s, {SHORTER}",
        ),
    ],
    ids=lambda part: next(reversed(part)) if isinstance(part, dict) else "",
)
def test_bad_variables(refused, environ, error):
    """What is wrong with a variable is told under its name."""
    assert refused("queues: {x-y: {}, x.y: {}}", environ) == error


@pytest.mark.parametrize(
    "name", ["STREAMQ_CONCURRENCY", "STREAMQ_QUEUE", "STREAMQ__X", "STREAMQ_", "OTHER__X", "streamq_x__y"]
)
def test_other_variables_are_not_ours(load, name):
    """Options of the command line, other programs' variables and empty ones are left alone."""
    assert load(None, {name: "x", "STREAMQ_X__Y": ""}).config == Config()


# --- which Redis

URL = "redis: {url: 'redis://file'}"


@pytest.mark.parametrize(
    ("option", "text", "environ", "found"),
    [
        ("redis://o", URL, {"STREAMQ_REDIS_URL": "redis://s", "REDIS_URL": "redis://r"}, ("redis://o", "--redis-url")),
        (None, URL, {"STREAMQ_REDIS_URL": "redis://s", "REDIS_URL": "redis://r"}, ("redis://s", "STREAMQ_REDIS_URL")),
        (None, URL, {"REDIS_URL": "redis://r", "REDIS_HOST": "h"}, ("redis://r", "REDIS_URL")),
        (None, URL, {"REDIS_HOST": "h", "STREAMQ_REDIS_URL": ""}, ("redis://file", f"{FILE}:1")),
        (None, URL, {"STREAMQ_REDIS__URL": "redis://v"}, ("redis://v", "STREAMQ_REDIS__URL")),
        (
            None,
            None,
            {"REDIS_HOST": "h", "REDIS_PORT": "1", "REDIS_PASSWORD": "p@/"},
            ("redis://:p%40%2F@h:1/0", "REDIS_HOST"),
        ),
        (None, None, {"REDIS_HOST": "::1"}, ("redis://[::1]:6379/0", "REDIS_HOST")),
        (None, None, {"REDIS_PORT": "7"}, ("redis://localhost:7/0", "REDIS_PORT")),
        (None, None, {"REDIS_PASSWORD": "p"}, ("redis://:p@localhost:6379/0", "REDIS_PASSWORD")),
        (
            None,
            None,
            {"REDIS_HOST": "redis", "REDIS_PORT": "tcp://10.0.0.1:6380"},
            ("redis://redis:6380/0", "REDIS_HOST"),
        ),
        (None, None, {"REDIS_PORT": "tcp://10.0.0.1:6379"}, (None, "default")),
        (None, "redis: {url: }", {}, (None, "default")),
        (None, None, {}, (None, "default")),
    ],
)
def test_the_order_in_which_a_redis_is_found(load, option, text, environ, found):
    """The option beats the variables beat the file beats the parts; nobody said leaves it open."""
    settings = load(text, environ, redis_url=option)
    assert (settings.redis_url, settings.redis_url_origin) == found
    assert settings.origins["redis.url"] == settings.redis_url_origin


@pytest.mark.parametrize(
    ("options", "start", "part"),
    [
        ({"redis_url": f"ftp://:{PASSWORD}@h"}, "--redis-url: ", "it does not begin with one of redis://"),
        ({"environ": {"REDIS_URL": f"redis://:{PASSWORD}@h:x"}}, "REDIS_URL: ", "a port is a number"),
        ({"text": f"redis: {{url: 'redis://:{PASSWORD}@h/x'}}"}, f"{FILE}:1:14: ", "a database is a number"),
        (
            {"text": f"redis: {{url: 'redis://:{PASSWORD}@h/x'}}", "redis_url": "redis://h"},
            f"{FILE}:1:14: ",
            "a database",
        ),
        ({"environ": {"REDIS_HOST": f"redis://:{PASSWORD}@h"}}, "REDIS_HOST: ", "a URL goes into REDIS_URL"),
        ({"environ": {"REDIS_HOST": "h", "REDIS_PORT": "x"}}, "REDIS_PORT: ", "'x' is no port, expected a number"),
        ({"environ": {"REDIS_PORT": "65536"}}, "REDIS_PORT: ", "a port is a number from 1 to 65535"),
    ],
)
def test_a_url_that_is_wrong(refused, options, start, part):
    """A bad URL is told under the name of who gave it, without its password."""
    found = refused(**options)
    assert found.startswith(start)
    assert part in found
    assert PASSWORD not in found


# --- the other variables


@pytest.mark.parametrize(
    ("environ", "field", "value"),
    [
        ({"STREAMQ_ENV": "production"}, "production", True),
        ({"STREAMQ_ENV": "staging"}, "production", False),
        ({"LOG_LEVEL": "WARN"}, "log_level", "warning"),
        ({"LOG_LEVEL": "debug", "STREAMQ_LOG_LEVEL": "error"}, "log_level", "error"),
        ({"LOG_LEVEL": ""}, "log_level", "info"),
        ({"STREAMQ_LOG_FORMAT": "json"}, "log_format", "json"),
        ({"QUEUE_NAME": "a"}, "queues", ["a"]),
        ({"QUEUE_NAME": "b", "QUEUE_NAMES": "a, b,,c "}, "queues", ["b", "a", "c"]),
        ({"MAX_CONCURRENT": "7"}, "concurrency", 7),
        ({"MAX_CONCURRENT_JOBS": "8"}, "concurrency", 8),
        ({"MAX_CONCURRENT": "7", "MAX_CONCURRENT_JOBS": "8"}, "concurrency", 7),
        ({"STREAMQ_SIGNING_KEYS": "k:active:AAAA"}, "signing_keys", "k:active:AAAA"),
    ],
)
def test_variables_that_stand_alone(load, environ, field, value):
    """A container says with variables what a command line says with options."""
    assert getattr(load(None, environ), field) == value


@pytest.mark.parametrize(
    ("environ", "error"),
    [
        ({"STREAMQ_ENV": "prod"}, "STREAMQ_ENV: 'prod' is not usable, expected production"),
        ({"STREAMQ_ENV": "Production"}, "STREAMQ_ENV: 'Production' is not usable, expected production"),
        (
            {"LOG_LEVEL": "loud"},
            "LOG_LEVEL: 'loud' is not usable, expected debug, info, warning, error, critical, warn or fatal",
        ),
        ({"STREAMQ_LOG_FORMAT": "xml"}, "STREAMQ_LOG_FORMAT: 'xml' is not usable, expected console or json"),
        ({"MAX_CONCURRENT": "0"}, "MAX_CONCURRENT: 0 is too little, expected at least 1"),
        ({"MAX_CONCURRENT_JOBS": "x"}, "MAX_CONCURRENT_JOBS: 'x' is no count, expected a whole number such as 5"),
    ],
)
def test_variables_that_are_refused(refused, environ, error):
    """A variable that is nearly right is an error, not a surprise."""
    assert refused(None, environ) == error


def test_signing_keys_from_a_file(load, tmp_path):
    """The file that the variable names holds the keys; the line end is no part of them."""
    path = tmp_path / "keys"
    path.write_text("k:active:AAAA\n")
    assert load(None, {"STREAMQ_SIGNING_KEYS_FILE": str(path)}).signing_keys == "k:active:AAAA"


@pytest.mark.parametrize(
    ("content", "more", "error"),
    [
        (None, {}, "cannot be read: No such file or directory, expected the path of a file with the keys"),
        (b"\n", {}, "this file is empty, expected KEYID:STATE:BASE64, separated by commas"),
        (b"\xff", {}, "this file is not text, expected KEYID:STATE:BASE64, separated by commas"),
        (b"k", {"STREAMQ_SIGNING_KEYS": PASSWORD}, "STREAMQ_SIGNING_KEYS is set too, expected one of the two"),
    ],
)
def test_signing_keys_that_cannot_be_had(refused, tmp_path, content, more, error):
    """Keys that were meant and are not there stop the start; neither they nor the path are repeated."""
    path = tmp_path / PASSWORD
    if content is not None:
        path.write_bytes(content)
    found = refused(None, {"STREAMQ_SIGNING_KEYS_FILE": str(path), **more})
    assert found == f"STREAMQ_SIGNING_KEYS_FILE: {error}"


# --- secrets


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        (f"redis: {{url: 'redis://:{PASSWORD}@h'}}", {}),
        (None, {"REDIS_URL": f"redis://{PASSWORD}:{PASSWORD}@h"}),
        (None, {"STREAMQ_REDIS__URL": f"redis://:{PASSWORD}@h"}),
        (None, {"REDIS_HOST": "h", "REDIS_PASSWORD": PASSWORD}),
        (None, {"STREAMQ_SIGNING_KEYS": PASSWORD}),
    ],
)
def test_secrets_do_not_show(load, text, environ):
    """No repr, no origin and no ``config show`` holds a password or a key; who uses them has them."""
    settings = load(text, environ)
    assert PASSWORD in f"{settings.redis_url} {settings.signing_keys}"
    assert PASSWORD not in repr(settings)
    assert PASSWORD not in repr(settings.origins)
    assert f":{PASSWORD}" not in repr(effective(settings))


SECRET = f"k1:active:{PASSWORD}"


@pytest.mark.parametrize(
    "text",
    [
        f"redis: 'redis://:{PASSWORD}@h'",
        f"redis: {{'redis://:{PASSWORD}@h'}}",
        f"redis: {{url: {PASSWORD}}}",
        f"redis: {{url: ['redis://:{PASSWORD}@h']}}",
        f"redis: {{url: *{PASSWORD}}}",
        f"redis: {{url: !{PASSWORD}}}",
        f"queues: {{a: {SECRET}}}",
        f"queues: {{a: {{signing: {SECRET}}}}}",
        f"queues: {{a: {{signing: {{{SECRET}: 1}}}}}}",
        f"queues: {{a: {{'{SECRET}': 1}}}}",
        f"queues: {{'{SECRET}': 1}}",
        f"'{SECRET}': 1",
        f"{{'{SECRET}': 1, '{SECRET}': 2}}",
        f"errors: {{a: {SECRET}}}",
    ],
)
def test_errors_do_not_repeat_secrets(refused, text):
    """A secret in the wrong place is not carried into the log by the error about it."""
    assert PASSWORD not in refused(text)


# --- origins and the effective configuration


def test_origins(load):
    """Each value knows who said it: a variable, a line of the queue or of ``defaults``, the level, or nobody."""
    settings = load(
        """\
        queue_priorities:
          high: {max_workers: 3}
        defaults:
          max_retries: 1
        queues:
          a:
            priority: high
            lease: 5s
          b: {}
        """,
        {"STREAMQ_QUEUES__B__LEASE": "6s"},
    )
    expected = {
        "redis.url": "default",
        "redis.prefix": "default",
        "worker.block": "default",
        "queue_priorities.high.max_workers": f"{FILE}:2",
        "queue_priorities.high.timeout": "default",
        "defaults.max_retries": f"{FILE}:4",
        "queues.a.priority": f"{FILE}:7",
        "queues.a.lease": f"{FILE}:8",
        "queues.a.max_retries": f"{FILE}:4",
        "queues.a.max_consumers": "level high",
        "queues.a.ack_timeout": "level high",
        "queues.a.retry_delay": "default",
        "queues.b.lease": "STREAMQ_QUEUES__B__LEASE",
        "queues.b.max_consumers": "level normal",
    }
    assert {key: settings.origins[key] for key in expected} == expected


def flat(nested, path=()):
    for key, value in nested.items():
        if isinstance(value, dict):
            yield from flat(value, (*path, key))
        else:
            yield ".".join((*path, key))


def test_effective_is_written_like_the_file(load):
    """``config show`` prints what holds, as one would write it, and every line of it has an origin."""
    settings = load("defaults: {max_age: 90s}\nqueues: {a: {max_size: 1KiB}}\nerrors: {Busy: transient}")
    found = effective(settings)
    assert list(found) == ["redis", "queue_priorities", "defaults", "queues", "worker", "errors"]
    assert found["redis"] == {"url": None, "prefix": "queue"}
    assert found["queue_priorities"]["normal"] == {"priority": 3, "max_workers": 5, "timeout": "30m"}
    assert found["defaults"] == {"max_age": "90s"}
    assert found["worker"]["beat_interval"] == "2.5s"
    assert found["errors"] == {"Busy": "transient"}
    queue = found["queues"]["a"]
    assert list(queue) == list(keys_of(QueueConfig))
    assert (queue["max_size"], queue["max_age"], queue["lease"]) == ("1KiB", "90s", "30s")
    assert set(flat(found)) == settings.origins.keys()


@pytest.mark.parametrize(("keys", "signing"), [({}, "optional"), ({"STREAMQ_SIGNING_KEYS": "k"}, "required")])
def test_effective_signing(load, keys, signing):
    """A queue that does not say takes unsigned messages only as long as there is no key."""
    settings = load("queues: {a: {}, b: {signing: optional}}", keys)
    assert settings.config.queue("a").signing is None
    found = effective(settings)["queues"]
    assert (found["a"]["signing"], found["b"]["signing"]) == (signing, "optional")


def test_what_is_shown_can_be_read_again(load):
    """The effective configuration is itself a configuration file, and means the same."""
    import yaml

    first = load("queues: {a: {lease: 2500ms, max_age: 1h, priority: low, signing: optional}}")
    assert load(yaml.safe_dump(effective(first))).config == first.config


def test_schema_is_a_json_schema_of_the_file():
    """The schema names its dialect and covers the sections of the file."""
    found = config_schema()
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert list(found["properties"]) == ["redis", "queue_priorities", "defaults", "queues", "worker", "errors"]


@given(st.text(max_size=80))
def test_no_text_breaks_the_reader(tmp_path_factory, text):
    """Whatever stands in the file, it is read or refused with the file's name."""
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    try:
        load_settings(config=path, environ={})
    except ConfigError as error:
        assert all(line.startswith(f"{path}:") for line in str(error).splitlines())  # noqa: PT017


# --- the file that ships

COMMUNICATION = {"email_queue", "push_queue", "sms_queue", "webhook_queue"}
MEDIA = {
    *("video_upload_queue", "video_transcode_queue", "thumbnail_queue", "content_moderation_queue"),
    "video_processing_queue",
}
DATA = {"search_index_queue", "analytics_queue", "report_generation_queue", "data_export_queue"}
MAINTENANCE = {"cleanup_queue", "backup_queue", "maintenance_queue", "monitoring_queue"}
CELERY_LIKE = {"high_priority", "default", "low_priority", "failed_tasks"}
GIVEN = {
    "email_queue": (10000, "email_consumers", 5, 30.0, 60.0, 3, False),
    "video_processing_queue": (1000, "video_workers", 3, 1800.0, 300.0, 2, False),
    "search_index_queue": (5000, "search_workers", 2, 60.0, 30.0, 5, False),
    "webhook_queue": (2000, "webhook_workers", 4, 30.0, 60.0, 3, True),
}


@pytest.fixture(scope="module")
def shipped():
    return load_settings(environ={}, start=ROOT)


def test_the_shipped_file_has_every_queue(shipped):
    """All queues of the mission are in the file, and no others."""
    assert shipped.config.queues.keys() == COMMUNICATION | MEDIA | DATA | MAINTENANCE | CELERY_LIKE


@pytest.mark.parametrize("name", GIVEN)
def test_the_shipped_file_has_the_given_values(shipped, name):
    """The values that the requirements give are in the file."""
    q = shipped.config.queue(name)
    found = q.max_length, q.consumer_group, q.max_consumers, q.ack_timeout, q.retry_delay, q.max_retries
    assert (*found, q.exponential_backoff) == GIVEN[name]


def test_the_shipped_file_changes_no_default_elsewhere(shipped):
    """Levels, worker and other queues say what holds anyway; no Redis is named, so that the embedded one can start."""
    plain = Config()
    assert (shipped.config.levels, shipped.config.worker, shipped.config.prefix) == (
        plain.levels,
        plain.worker,
        "queue",
    )
    assert (shipped.config.defaults, shipped.config.errors, shipped.redis_url) == ({}, ErrorRules(), None)
    assert shipped.config.queue("report_generation_queue") == plain.queue("report_generation_queue")
    assert {queue.priority for queue in shipped.config.queues.values()} <= set(LEVELS)


def test_the_shipped_file_explains_every_key():
    """Every key is in the file, if only in a comment; and what a comment proposes can be taken as it stands."""
    text = (ROOT / FILE).read_text()
    for key in (*keys_of(QueueConfig), *keys_of(WorkerConfig), "url", "prefix"):
        assert f" {key}: " in text, key


def test_the_comments_of_the_shipped_file_tell_the_defaults(tmp_path):
    """Every key in the comment under ``defaults`` means, taken literally, what holds without it."""
    lines = (ROOT / FILE).read_text().splitlines()
    known = tuple(f"  # {key}: " for key in keys_of(QueueConfig))
    path = tmp_path / "queues.yaml"
    path.write_text("defaults:\n" + "\n".join(line.replace("# ", "", 1) for line in lines if line.startswith(known)))
    config = load_settings(config=path, environ={}).config
    assert config.defaults.keys() == keys_of(QueueConfig).keys()
    expected = {**{key: getattr(QueueConfig(name="q"), key) for key in keys_of(QueueConfig)}, "signing": "optional"}
    assert config.defaults == expected
