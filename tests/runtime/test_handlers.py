"""What ``@app.handler`` makes of a function: it stays itself, is registered, and publishes calls of itself."""

import inspect
import json

import msgspec
import pytest

from streamq import Context, InvalidMessage, StreamQ
from streamq.core.errors import StreamqError


class Sent(list):
    """Instead of the way to Redis."""

    async def __call__(self, queue, payload, options):
        self.append((queue, json.loads(payload), dict(options)))


@pytest.fixture
def sent():
    return Sent()


@pytest.fixture
def app(sent, monkeypatch):
    monkeypatch.setattr(StreamQ, "_send", lambda self, *call: sent(*call))
    return StreamQ()


def at_the_top():
    """What a child process can import."""


def at_the_top_with_context(ctx: Context):
    """The same, but for its parameter."""


class Order(msgspec.Struct):
    number: int
    city: str = "Rome"


# --- the function stays what it is


async def test_a_handler_is_still_its_function(app):
    """It is tested without Redis, by calling it."""

    async def double(number: int) -> int:
        """Twice as much."""
        return 2 * number

    decorated = app.handler("orders")(double)
    assert decorated is double
    assert inspect.iscoroutinefunction(decorated)
    assert await decorated(4) == 8
    assert (decorated.__name__, decorated.__doc__) == ("double", "Twice as much.")


def test_a_plain_function_stays_one(app):
    @app.handler("orders")
    def double(number: int) -> int:
        return 2 * number

    assert double(4) == 8


# --- what is registered


def test_its_type_is_its_name_unless_it_says_otherwise(app):
    @app.handler("orders")
    async def one():
        pass

    @app.handler("orders", type="second")
    async def two():
        pass

    assert app.registry.types("orders") == ["one", "second"]
    assert app.registry.resolve("orders", "second").function is two


def test_what_the_decorator_says_reaches_the_handler(app):
    @app.handler(
        "orders", timeout=5, max_retries=1, retry_on=(OSError,), never_retry=(KeyError,), priority="high", delay=3
    )
    async def work():
        pass

    handler = app.registry.resolve("orders", "work")
    assert (handler.timeout, handler.max_retries) == (5, 1)
    assert (handler.retry_on, handler.never_retry) == ((OSError,), (KeyError,))
    assert handler.publish_options == {"priority": "high", "delay": 3}


def test_coroutines_run_on_the_loop_and_everything_else_in_a_thread(app):
    @app.handler("orders")
    async def coroutine():
        pass

    @app.handler("orders")
    def function():
        pass

    app.handler("orders", executor="process")(at_the_top)
    kinds = [app.registry.resolve("orders", name).executor for name in ("coroutine", "function", "at_the_top")]
    assert kinds == ["async", "thread", "process"]


@pytest.mark.parametrize(("executor", "is_async"), [("thread", True), ("process", True), ("async", False)])
def test_an_executor_that_does_not_fit_is_an_error_at_import(app, executor, is_async):
    async def coroutine():
        pass

    def function():
        pass

    with pytest.raises(StreamqError, match=f"executor='{executor}' does not fit"):
        app.handler("orders", executor=executor)(coroutine if is_async else function)
    assert app.registry.queues() == []


def test_a_child_process_has_no_context(app):
    with pytest.raises(StreamqError, match="no Context"):
        app.handler("orders", executor="process")(at_the_top_with_context)


def test_a_child_process_must_find_its_function(app):
    """By its name: what is defined inside of another function has none that can be imported."""

    def inside():
        pass

    with pytest.raises(StreamqError, match="define it at the top of a module"):
        app.handler("orders", executor="process")(inside)
    with pytest.raises(StreamqError, match="define it at the top of a module"):
        app.handler("orders", executor="process", type="work")(lambda: None)


def test_two_handlers_for_one_type_are_an_error_at_import(app):
    """It names both. On another queue there is no conflict."""

    async def first():
        pass

    async def second():
        pass

    app.handler("orders", type="work")(first)
    app.handler("mail", type="work")(second)
    with pytest.raises(StreamqError, match=r"first.*second"):
        app.handler(["files", "orders"], type="work")(second)
    with pytest.raises(StreamqError, match="two handlers"):
        app.handler("orders", type="work")(first)


def test_a_decorator_without_its_queue_says_what_is_missing(app):
    """Otherwise the function would be taken for the name of a queue."""

    async def work():
        pass

    with pytest.raises(StreamqError, match=r'@app\.handler\("email_queue"\)'):
        app.handler(work)


def test_an_unknown_option_is_an_error_at_import(app):
    with pytest.raises(InvalidMessage, match="no such option: prio; there are priority"):
        app.handler("orders", prio="high")


# --- publishing


async def test_a_call_becomes_a_payload(app, sent):
    @app.handler("orders")
    async def work(number: int, city: str = "Rome", *, tags: list[str] | None = None):
        pass

    await work.publish(1)
    await work.publish(1, city="Oslo", tags=["a"])
    assert sent[0] == ("orders", {"type": "work", "number": 1}, {})
    assert sent[1][1] == {"type": "work", "number": 1, "city": "Oslo", "tags": ["a"]}


async def test_the_context_is_nobodys_to_publish(app, sent):
    @app.handler("orders")
    async def work(ctx: Context, number: int):
        pass

    await work.publish(1)
    assert sent[0][1] == {"type": "work", "number": 1}


async def test_one_struct_stands_for_the_whole_payload(app, sent):
    @app.handler("orders")
    async def work(order: Order):
        pass

    await work.publish(Order(7))
    assert sent[0][1] == {"type": "work", "number": 7, "city": "Rome"}


async def test_what_no_worker_could_decode_is_not_sent(app, sent):
    @app.handler("orders")
    async def work(number: int):
        pass

    with pytest.raises(InvalidMessage, match="number"):
        await work.publish("one")
    with pytest.raises(TypeError):
        await work.publish()
    with pytest.raises(TypeError):
        await work.publish(1, city="Oslo")
    assert sent == []


async def test_options_of_the_call_beat_those_of_the_decorator(app, sent):
    @app.handler("orders", priority="low", delay=3)
    async def work():
        pass

    await work.publish()
    await work.options(priority="high", idempotency_key="k").publish()
    await work.publish()
    assert sent[0][2] == sent[2][2] == {"priority": "low", "delay": 3}
    assert sent[1][2] == {"priority": "high", "delay": 3, "idempotency_key": "k"}


async def test_an_unknown_option_of_a_call_is_an_error(app):
    @app.handler("orders")
    async def work():
        pass

    with pytest.raises(InvalidMessage, match="no such option: prio"):
        work.options(prio="high")


async def test_of_several_queues_the_first_is_published_to(app, sent):
    @app.handler(["orders", "mail"])
    async def work():
        pass

    await work.publish()
    await work.options(queue="mail").publish()
    assert [queue for queue, _, _ in sent] == ["orders", "mail"]
    assert sent[1][2] == {}
    assert app.registry.queues() == ["mail", "orders"]


# --- a parameter called type


async def test_a_pattern_needs_to_be_told_which_type(app, sent):
    @app.handler("files", type="video_*")
    async def videos(title: str):
        pass

    with pytest.raises(InvalidMessage, match="publish one by name"):
        await videos.publish("a title")
    assert sent == []


async def test_a_pattern_publishes_the_type_it_is_told(app, sent):
    @app.handler("files", type="video_*")
    async def videos(type: str, title: str):
        pass

    await videos.publish("video_cut", "one")
    await videos.publish(type="video_join", title="two")
    assert [payload["type"] for _, payload, _ in sent] == ["video_cut", "video_join"]


async def test_a_type_that_would_go_to_somebody_else_is_refused(app, sent):
    """The payload's type decides who gets it; the caller meant this handler."""

    @app.handler("files", type="video_*")
    async def videos(type: str):
        pass

    @app.handler("files")
    async def work(type: str):
        pass

    for handler in (videos, work):
        with pytest.raises(InvalidMessage, match="would not come to this handler"):
            await handler.publish("audio_cut")
    await work.publish("work")
    assert [payload for _, payload, _ in sent] == [{"type": "work"}]
