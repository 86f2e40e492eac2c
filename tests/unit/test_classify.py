"""Which errors are worth another try: the user's types, the known types, the user's words, the known words."""

import pytest

from streamq.core.classify import ErrorClass, classify
from streamq.core.config import ErrorRules


class QuotaError(Exception):
    """An error of the user's."""


class DailyQuotaError(QuotaError):
    """A more special one."""


class NotFound(Exception):
    """Says nothing but its name."""


class Mute(Exception):
    """An error that breaks when it is asked what it is."""

    def __str__(self):
        raise RuntimeError("no")


NONE = ErrorRules()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TimeoutError(), "transient"),
        (ConnectionError(), "transient"),
        (ConnectionResetError("invalid"), "transient"),  # the type speaks before the words
        (TimeoutError("user not found"), "transient"),
        (Exception("Connection refused"), "transient"),
        (Exception("the request TIMED OUT"), "transient"),
        (Exception("read timeout"), "transient"),
        (Exception("Rate limit exceeded"), "transient"),
        (Exception("RateLimited"), "transient"),
        (Exception("429 Too Many Requests"), "transient"),
        (Exception("invalid address"), "permanent"),
        (ValueError("invalid literal for int()"), "permanent"),
        (Exception("user not found"), "permanent"),
        (NotFound(), "permanent"),  # the name of the type is text as well
        (FileNotFoundError(2, "x"), "permanent"),
        (Exception("401 Unauthorized"), "permanent"),
        (Exception("invalid timeout"), "transient"),  # of both kinds: one more try costs less than a lost message
        (Exception("disk full"), "retryable"),
        (KeyError("x"), "retryable"),
        (Exception(), "retryable"),
        (Mute(), "retryable"),
        (SystemExit(3), "retryable"),
    ],
    ids=repr,
)
def test_without_rules(error, expected):
    """Known types are looked at first, then known words in whatever case; what nothing speaks about is retried."""
    assert classify(error, NONE) == expected


@pytest.mark.parametrize("verdict", ["transient", "permanent", "retryable", "non_retryable"])
@pytest.mark.parametrize("key", ["QuotaError", f"{__name__}.QuotaError"])
def test_a_type_by_name(key, verdict):
    """A rule names a type with or without its module, and all four classes can be said."""
    assert classify(QuotaError("x"), ErrorRules(types={key: verdict})) is ErrorClass(verdict)


@pytest.mark.parametrize(
    ("error", "rules", "expected"),
    [
        # a parent's rule holds for its children, the nearest one first
        (DailyQuotaError(), ErrorRules(types={"QuotaError": "permanent"}), "permanent"),
        (DailyQuotaError(), ErrorRules(types={"QuotaError": "permanent", "DailyQuotaError": "transient"}), "transient"),
        (DailyQuotaError(), ErrorRules(types={"Exception": "transient", "QuotaError": "permanent"}), "permanent"),
        (QuotaError(), ErrorRules(types={"DailyQuotaError": "permanent"}), "retryable"),
        # a type of the user's beats a known type
        (TimeoutError(), ErrorRules(types={"TimeoutError": "non_retryable"}), "non_retryable"),
        (ConnectionResetError(), ErrorRules(types={"OSError": "permanent"}), "permanent"),
        # types before words
        (QuotaError("slow"), ErrorRules(types={"QuotaError": "permanent"}, words={"slow": "transient"}), "permanent"),
        (TimeoutError("slow"), ErrorRules(words={"slow": "permanent"}), "transient"),
        # the user's words before the known ones, in whatever case, in the order in which they are given
        (Exception("Invalid token"), ErrorRules(words={"INVALID": "retryable"}), "retryable"),
        (Exception("quota exceeded"), ErrorRules(words={"quota": "permanent", "exceeded": "transient"}), "permanent"),
        (QuotaError(), ErrorRules(words={"quotaerror": "non_retryable"}), "non_retryable"),
        (Exception("fine"), ErrorRules(words={"quota": "permanent"}), "retryable"),
    ],
)
def test_rules_of_the_user(error, rules, expected):
    """By type first, the nearest class of it, then by word; what the user says beats what is known."""
    assert classify(error, rules) == expected
