"""Which function handles what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamq.core.errors import StreamqError
from streamq.core.registry import Registry
from tests.unit.builders import QUEUE, handler, registry


async def other(amount: int):
    """Another handler."""


def types(*names):
    return registry(*(handler(type=name) for name in names))


def resolved(found, message_type, queue=QUEUE):
    one = found.resolve(queue, message_type)
    return one and one.type


@pytest.mark.parametrize(
    ("message_type", "expected"),
    [
        ("video_upload", "video_upload"),
        ("video_uploads", "video_up*"),
        ("video_up", "video_up*"),
        ("video_", "video_*"),
        ("video_cut", "video_*"),
        ("video", "v*"),
        ("Video_cut", "*"),
        ("xvideo_upload", "*"),
        ("", "*"),
        ("video_*", "video_*"),  # a hostile type is a name like any other
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_the_exact_type_then_the_longest_prefix(message_type, expected, order):
    """Precedence is by type, not by the order of registration."""
    found = types(*["*", "v*", "video_*", "video_up*", "video_upload"][::order])
    assert resolved(found, message_type) == expected


def test_what_nobody_handles():
    """Neither another type, nor a type of another queue."""
    found = types("pay", "video_*")
    assert [resolved(found, name) for name in ("", "pa", "payment", "video")] == [None] * 4
    assert resolved(found, "pay", "emails") is None
    assert resolved(found, "video_cut", "emails") is None
    assert Registry().resolve(QUEUE, "pay") is None


def test_one_handler_on_several_queues():
    """It is found on each, and counted once."""
    found = registry(handler(queues=("a", "b")), handler(type="p*", queues=("a", "c")), handler(other, type="x"))
    assert [resolved(found, "pay", name) for name in "abc"] == ["pay", "pay", "p*"]
    assert found.queues() == ["a", "b", "c", QUEUE]
    assert [found.types(name) for name in ("a", "b", "c", "d")] == [["p*", "pay"], ["pay"], ["p*"], []]
    assert [one.type for one in found.handlers()] == ["pay", "x", "p*"]


@pytest.mark.parametrize("name", ["pay", "pay_*", "*"])
def test_two_handlers_for_one_type(name):
    """An error at import that names both functions, the type and the queue."""
    found = registry(handler(type=name, queues=("a", "b")))
    with pytest.raises(StreamqError) as caught:
        found.add(handler(other, type=name, queues=("c", "b")))
    for part in (repr(name), "'b'", "builders.pay", "test_registry.other"):
        assert part in str(caught.value)


def test_a_refused_handler_is_not_registered_by_halves():
    """The queues that come before the one that is taken do not get it either."""
    found = registry(handler(queues=("b",)))
    with pytest.raises(StreamqError):
        found.add(handler(other, queues=("a", "b")))
    assert found.queues() == ["b"]


@pytest.mark.parametrize("name", ["pay", "pay*"])
def test_a_queue_that_is_named_twice_counts_once(name):
    """The same queue again is no conflict of a handler with itself."""
    assert registry(handler(type=name, queues=("a", "b", "a"))).types("a") == [name]


def test_a_pattern_beside_a_name_is_no_conflict():
    """`pay`, `pay*` and `pay_*` are three types."""
    assert types("pay", "pay*", "pay_*").types(QUEUE) == ["pay", "pay*", "pay_*"]


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"type": ""}, "handler type ''"),
        ({"type": "a*b"}, r"handler type 'a\*b'"),
        ({"type": "*a"}, r"handler type '\*a'"),
        ({"type": "a**"}, r"handler type 'a\*\*'"),
        ({"queues": ()}, "name a queue"),
        ({"timeout": 0}, "timeout 0 should be seconds"),
        ({"timeout": -1.5}, "timeout -1.5 should be"),
        ({"timeout": float("nan")}, "timeout nan should be"),
        ({"timeout": "30s"}, "timeout '30s' should be"),
        ({"max_retries": -1}, "max_retries -1 should be"),
        ({"max_retries": 2.5}, "max_retries 2.5 should be"),
        ({"retry_on": [OSError]}, "retry_on should be a tuple"),
        ({"retry_on": OSError}, "retry_on should be a tuple"),
        ({"never_retry": (OSError, "ValueError")}, "never_retry should be a tuple"),
        ({"isolate": "thread"}, "isolate 'thread' should be 'process' or 'worker'"),
        ({"never_retry": (OSError("x"),)}, "never_retry should be a tuple"),
        ({"never_retry": (int,)}, "never_retry should be a tuple"),
    ],
)
def test_what_a_decorator_cannot_mean(said, text):
    """It is said at import: the first message would be too late."""
    with pytest.raises(StreamqError, match=text):
        registry(handler(**said))


def test_what_a_decorator_may_say():
    """The limits themselves are allowed."""
    said = {"timeout": 0.001, "max_retries": 0, "retry_on": (OSError,), "never_retry": (KeyboardInterrupt,)}
    found = registry(handler(**said)).resolve(QUEUE, "pay")
    assert {name: getattr(found, name) for name in said} == said


def test_what_a_decorator_need_not_say():
    """A coroutine on the event loop, and the limits of the queue."""
    found = handler()
    assert (found.executor, found.timeout, found.max_retries, found.retry_on, found.never_retry) == (
        "async", None, None, (), (),
    )  # fmt: skip
    assert found.publish_options == {}
    assert found.publish_options is not handler().publish_options


def test_patterns_know_themselves():
    """Only a trailing star makes one."""
    assert [handler(type=name).is_pattern for name in ("pay", "pay*", "*")] == [False, True, True]


@given(st.lists(st.text("ab", max_size=4), unique=True), st.text("ab", max_size=5))
def test_the_longest_prefix_wins_whatever_they_are(prefixes, message_type):
    """Compared with looking at all of them."""
    found = types(*(f"{prefix}*" for prefix in prefixes))
    fitting = [prefix for prefix in prefixes if message_type.startswith(prefix)]
    assert resolved(found, message_type) == (f"{max(fitting, key=len)}*" if fitting else None)
