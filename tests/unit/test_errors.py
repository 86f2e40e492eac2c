"""Errors: what they carry, also across the pipe of a child process."""

import pickle

import pytest

from streamq.core import errors
from streamq.core.receipt import Receipt


class Busy(errors.Retry):
    """A user's own word, with arguments of its own."""

    def __init__(self, desks):
        super().__init__(after=desks, reason=f"{desks} desks are taken")


@pytest.mark.parametrize(
    "error",
    [
        errors.Retry(after=5, reason="busy"),
        errors.Retry(),
        errors.Snooze(after=60, reason="night"),
        errors.Reject("no such user"),
        errors.Drop("sold out"),
        errors.QueueFull("full", (Receipt("msg_1", "q"), None)),
        errors.DurabilityUnconfirmed("m1", "slow disk", ids=("m1", "m2"), receipts=(Receipt("m1", "q"), None)),
        Busy(7),
    ],
    ids=repr,
)
def test_errors_cross_a_pipe(error):
    """A handler that runs in a child process says the same as one that runs here."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), copy.args, vars(copy)) == (str(error), error.args, vars(error))


def test_the_reason_is_the_text():
    """What a handler says about its fate is what dead letters and logs show."""
    said = [errors.Retry(after=1, reason="a"), errors.Snooze(1, "b"), errors.Reject("c"), errors.Drop("d")]
    assert [(str(error), error.reason) for error in said] == [("a", "a"), ("b", "b"), ("c", "c"), ("d", "d")]
    assert (said[0].after, errors.Retry().after, said[1].after) == (1, None, 1)


def test_an_unknown_publication_names_its_message():
    """Whoever catches it can publish again with the same id."""
    assert errors.PublishUnknown("msg_1").id == "msg_1"
    assert str(errors.PublishUnknown("msg_1")) == "Redis did not confirm message msg_1"
    assert str(errors.PublishUnknown("msg_1", "timed out")) == "Redis did not confirm message msg_1: timed out"


def test_an_unconfirmed_message_was_accepted():
    """The text says so, and what to do; of many, all that were not confirmed can be told from it."""
    one = errors.DurabilityUnconfirmed("m1", "the disk is slow", receipts=(Receipt("m1", "q"),))
    assert (one.id, one.ids, one.reason) == ("m1", ("m1",), "the disk is slow")
    assert str(one) == (
        "message m1 was accepted, but is not confirmed as durable: the disk is slow. "
        "Publishing it again with its message_id adds nothing, and asks once more"
    )
    many = errors.DurabilityUnconfirmed("m1", ids=("m1", "m3"))
    assert str(many).startswith("message m1 and 1 more was accepted, but is not confirmed as durable: Redis did not.")


def test_one_root():
    """`except StreamqError` catches what the library raises, and never a handler's word."""
    raised = ["ConfigError", "RedisUnavailable", "InvalidMessage", "MessageTooLarge", "QueueFull", "PublishUnknown"]
    raised += ["DurabilityUnconfirmed"]
    assert all(issubclass(getattr(errors, name), errors.StreamqError) for name in raised)
    assert issubclass(errors.MessageTooLarge, errors.InvalidMessage)
    words = (errors.Retry, errors.Snooze, errors.Reject, errors.Drop)
    assert not any(issubclass(word, errors.StreamqError) for word in words)


def test_the_cause_inside_of_groups():
    """Groups of one are taken off; what holds several causes, or is none, stays."""
    one, other = ValueError("x"), OSError("y")
    both = ExceptionGroup("g", [one, other])
    assert errors.cause_of(one) is one
    assert errors.cause_of(ExceptionGroup("g", [one])) is one
    assert errors.cause_of(BaseExceptionGroup("g", [ExceptionGroup("h", [one])])) is one
    assert errors.cause_of(ExceptionGroup("g", [both])) is both
