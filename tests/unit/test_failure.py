"""What is said about an error: limits, no secrets, no local variables, and what groups errors by cause."""

import json
import pickle
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamq.core.failure import MAX_ERROR, MAX_TRACEBACK, clip, describe, remember, scrub, text_of


class Mute(Exception):
    """An error that breaks when it is asked what it is."""

    def __str__(self):
        raise RuntimeError("no")


def caught(function, *args):
    try:
        function(*args)
    except Exception as error:  # noqa: BLE001 - whatever a test raises
        return error
    raise AssertionError("it did not raise")


def fail(error):
    raise error


def module(name, filename, code, **names):
    """A function ``run`` of a module that lies elsewhere."""
    space = {"__name__": name, **names}
    exec(compile(code, filename, "exec"), space)
    return space["run"]


# --- text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("boom"), "ValueError: boom"),
        (ValueError(), "ValueError"),
        (ValueError(""), "ValueError"),
        (KeyError("x"), "KeyError: 'x'"),
        (Mute(), "Mute: (it cannot say what it is)"),
    ],
    ids=["with a text", "without", "empty", "key", "broken"],
)
def test_type_and_message(error, text):
    """The type comes first; an error that cannot be printed is no second error."""
    assert text_of(error) == text
    assert describe(error).error == text


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("redis://user:hunter2@host:6379/0", "redis://***@host:6379/0"),
        ("redis://:hunter2@host", "redis://***@host"),
        ("redis://:hun@ter2@host", "redis://***@host"),
        ("a redis://:p1@h1, redis://:p2@h2 b", "a redis://***@h1, redis://***@h2 b"),
        ("http://host/path@2x.png", "http://host/path@2x.png"),
        ("mail to a@b.c", "mail to a@b.c"),
        ("password=hunter2", "password=***"),
        ("password=hunter2 user=x", "password=*** user=x"),
        ("password = hunter2, x", "password = ***, x"),
        ("PASSWORD: hunter2", "PASSWORD: ***"),
        ("smtp_password='hunter2 two'", "smtp_password=***"),
        ('{"password": "hunter2 two", "user": "x"}', '{"password": ***, "user": "x"}'),
        (r'{"password": "hun\"ter2", "user": "x"}', '{"password": ***, "user": "x"}'),
        (r"{'password': 'hun\'ter2', 'user': 'x'}", "{'password': ***, 'user': 'x'}"),
        ("{'passwd': b'hunter2'}", "{'passwd': ***}"),
        ("passphrase=hunter2", "passphrase=***"),
        ("pwd=hunter2&x=1", "pwd=***&x=1"),
        ("client_secret=hunter2;x", "client_secret=***;x"),
        ("AWS_SECRET_ACCESS_KEY=hunter2", "AWS_SECRET_ACCESS_KEY=***"),
        ("access_token=hunter2&x=1", "access_token=***&x=1"),
        ("api-key: hunter2", "api-key: ***"),
        ("apikey=hunter2", "apikey=***"),
        ("api_keys=hunter2", "api_keys=***"),
        ("private_key=hunter2", "private_key=***"),
        ("STREAMQ_SIGNING_KEYS=k1:active:hunter2", "STREAMQ_SIGNING_KEYS=***"),
        ("credentials: hunter2", "credentials: ***"),
        ("Authorization: Bearer hunter2", "Authorization: ***"),
        ("authorization: basic hunter2", "authorization: ***"),
        ("Authorization: Token hunter2", "Authorization: ***"),
        ("'Authorization': 'Bearer hunter2'", "'Authorization': ***"),
        ("sent bearer hunter2hunter2", "sent bearer ***"),
        ("sent Basic aHVudGVyMjpo", "sent Basic ***"),
        ("a basic example", "a basic example"),
        ("the password is wrong", "the password is wrong"),
        ("invalid token", "invalid token"),
    ],
)
def test_what_looks_like_a_credential_is_taken_out(text, scrubbed):
    """Credentials go, and what an operator needs stays."""
    assert scrub(text) == scrubbed


@pytest.mark.parametrize("around", ["redis://u:{}@h", "password={}", "Authorization: Bearer {}", "token: '{}'"])
def test_no_part_of_a_secret_is_left_by_a_cut(around):
    """It is scrubbed before it is cut: a secret that lies on the limit does not lose its mark first."""
    secret = around.format("S3CR3T" * 5)
    for length in range(1950, 2050):  # before the end of an error
        assert "S3CR" not in describe(ValueError(f"{'x' * length} {secret} {'x' * 100}")).error
    for length in range(8100, 8200):  # after the beginning of a traceback
        assert "CR3T" not in describe(caught(fail, ValueError(f"{secret} {'x' * length}"))).traceback


@pytest.mark.parametrize("unit", ["://", "password", "password=", 'password="', "token='", "bearer ", "a@", "\\", "x "])
def test_scrubbing_takes_no_time(unit):
    """A hostile text of a megabyte does not hang the worker: its test would run into the time limit."""
    scrub(unit * (1_000_000 // len(unit)))


# --- cuts


@pytest.mark.parametrize(
    ("text", "limit", "start", "end"),
    [
        ("abcdef", 6, "abcdef", "abcdef"),
        ("abcdefg", 6, "abc…", "…efg"),
        ("äääää", 10, "äääää", "äääää"),
        ("äääää", 9, "äää…", "…äää"),
        ("äääää", 8, "ää…", "…ää"),  # never half a character
        ("a\ud800", 6, "a?", "a?"),
        ("", 6, "", ""),
    ],
)
def test_cuts(text, limit, start, end):
    """What fits stays whole; what does not loses its end, or its beginning, and shows it."""
    assert clip(text, limit) == start
    assert clip(text, limit, keep_end=True) == end


@given(st.text(st.characters(), max_size=200), st.integers(4, 200), st.booleans())
def test_cuts_keep_the_limit_in_bytes(text, limit, keep_end):
    """The limit is one of UTF-8 bytes, and at most one character and the mark are given away."""
    found = clip(text, limit, keep_end=keep_end)
    size, whole = len(found.encode()), text.encode(errors="replace")
    assert size <= limit
    if len(whole) <= limit:
        assert found == whole.decode()
    else:
        assert size > limit - 4
        part = found.removeprefix("…") if keep_end else found.removesuffix("…")
        assert (whole.decode().endswith if keep_end else whole.decode().startswith)(part)


def test_limits_of_a_dead_letter():
    """An error has at most 2 KiB and keeps its beginning; a traceback at most 8 KiB and keeps its end."""

    def deep(n):
        return n % 7 + deep(n - 1) if n % 2 else fail(ValueError("é" * 20_000)) if n == 0 else 1 + deep(n - 1)

    found = describe(caught(deep, 300))
    assert (MAX_ERROR, MAX_TRACEBACK) == (2048, 8192)
    assert 2045 <= len(found.error.encode()) <= 2048
    assert 8189 <= len(found.traceback.encode()) <= 8192
    assert found.error.startswith("ValueError: éé")
    assert found.traceback.startswith("…")
    assert found.traceback.rstrip().endswith("é")


# --- tracebacks


def with_secret_locals():
    password = "S3CR3T"
    payload = {"card": "4111"}
    return password + payload["pin"]


def test_no_local_variables():
    """Frames name files, lines and functions; the values in them hold payloads and keys."""
    found = describe(caught(with_secret_locals))
    assert "with_secret_locals" in found.traceback
    assert "KeyError: 'pin'" in found.traceback
    assert "4111" not in found.traceback


def test_causes_are_told_and_scrubbed():
    """The whole chain is there, without the credentials in its messages."""

    def run():
        try:
            fail(ConnectionError("redis://:S3CR3T@h is down"))
        except ConnectionError as error:
            raise RuntimeError("no user") from error

    found = describe(caught(run))
    assert found.error == "RuntimeError: no user"
    assert "redis://***@h is down" in found.traceback
    assert "S3CR3T" not in found.traceback


def test_an_error_that_was_never_raised_has_no_traceback():
    """A time limit is judged without an exception having travelled."""
    assert describe(TimeoutError("x")) == ("TimeoutError: x", "", "TimeoutError")


# --- fingerprints


def here(function):
    return f"{__name__}.{function.__qualname__}"


def test_a_fingerprint_names_the_innermost_frame_of_the_app():
    """What the app called to fail does not count: one cause, one fingerprint."""

    def parse(text):
        return json.loads(text)

    found = describe(caught(parse, "{"))
    assert found.fingerprint == f"JSONDecodeError {here(parse)}"


def test_a_fingerprint_does_not_depend_on_the_message():
    """Nor on the line of the caller."""
    one = describe(caught(fail, ValueError("user 1")))
    other = describe(caught(fail, ValueError("user 2")))
    assert one.fingerprint == other.fingerprint == f"ValueError {here(fail)}"


@pytest.mark.parametrize(
    ("name", "filename", "counts"),
    [
        ("shop.mail", "/srv/shop/mail.py", True),
        ("__main__", "/srv/run.py", True),
        ("streamq_shop", "/srv/streamq_shop.py", True),
        ("workers.email", "/srv/workers/email.py", True),
        ("streamq", "/srv/streamq/app.py", False),
        ("streamq.runtime.executors", "/srv/streamq/runtime/executors.py", False),
        ("json.decoder", "/usr/lib/python3/json/decoder.py", False),
        ("requests.api", "/venv/lib/python3/site-packages/requests/api.py", False),
        ("yaml", "/usr/lib/python3/dist-packages/yaml/__init__.py", False),
    ],
)
def test_which_frames_are_of_the_app(name, filename, counts):
    """Neither ours, nor Python's, nor an installed package's."""
    inner = module(name, filename, "def run():\n    raise ValueError('x')")

    def handler():
        inner()

    expected = f"{name}.run" if counts else here(handler)
    assert describe(caught(handler)).fingerprint == f"ValueError {expected}"


def test_without_a_frame_of_the_app():
    """The outermost frame stands in, so that there is a fingerprint at all."""
    inner = module("json", "/lib/json.py", "def run():\n    raise ValueError('x')")
    outer = module("streamq.x", "/streamq/x.py", "def run():\n    inner()", inner=inner)
    error = caught(outer)
    assert error.__traceback__ is not None
    error.__traceback__ = error.__traceback__.tb_next  # without the frame of this test
    assert describe(error).fingerprint == "ValueError streamq.x.run"


def test_a_module_without_a_name():
    """Code that was made by hand may have no module; its errors are described all the same."""
    inner = module(None, "/srv/x.py", "def run():\n    raise ValueError('x')")
    assert describe(caught(inner)).fingerprint == "ValueError None.run"


def test_an_endless_recursion_is_described():
    """The traceback of a thousand frames is folded, not followed for ever."""

    def run():
        return run()

    found = describe(caught(run))
    assert found.fingerprint == f"RecursionError {here(run)}"
    assert len(found.traceback.encode()) <= MAX_TRACEBACK
    assert sys.getrecursionlimit() >= 1000


def test_an_error_whose_parts_make_no_sense_is_described_all_the_same():
    """The traceback module asks a SyntaxError for its parts, and these are the user's."""
    with pytest.raises(SyntaxError) as caught:
        raise SyntaxError("x", ("f", 1, "abc", "t"))
    found = describe(caught.value)
    assert "test_failure" in found.traceback
    assert found.fingerprint.startswith("SyntaxError ")


def test_an_error_keeps_its_description_on_its_way_to_another_process():
    """Its frames do not travel."""
    error = caught(int, "x")
    told = describe(error)
    assert told.traceback
    remember(error)
    assert describe(pickle.loads(pickle.dumps(error))) == told
