"""What kind of error it was: worth another try, or not. By type first, then by rule. Pure."""

from enum import StrEnum

from streamq.core.config import ErrorRules
from streamq.core.failure import text_of


class ErrorClass(StrEnum):
    """Transient and retryable errors are retried; permanent and non-retryable ones become dead letters at once."""

    TRANSIENT = "transient"
    PERMANENT = "permanent"
    RETRYABLE = "retryable"
    NON_RETRYABLE = "non_retryable"


_BY_TYPE: tuple[tuple[type[BaseException], ErrorClass], ...] = (
    (TimeoutError, ErrorClass.TRANSIENT),
    (ConnectionError, ErrorClass.TRANSIENT),
)
_BY_WORD = (
    (("timeout", "timed out", "connection", "rate limit", "ratelimit", "too many requests"), ErrorClass.TRANSIENT),
    (("invalid", "not found", "notfound", "unauthorized"), ErrorClass.PERMANENT),
)


def classify(error: BaseException, rules: ErrorRules) -> ErrorClass:
    """Classify an error that the handler's decorator does not mention.

    Args:
        error: what was raised.
        rules: the configured classes: by exception type name (own or a parent's), then by a word in the text.

    Returns:
        Its class; an error that nothing speaks about is retryable.
    """
    for kind in type(error).__mro__:
        for name in (kind.__name__, f"{kind.__module__}.{kind.__qualname__}"):
            if name in rules.types:
                return ErrorClass(rules.types[name])
    for known, verdict in _BY_TYPE:
        if isinstance(error, known):
            return verdict
    text = text_of(error).lower()
    for word, configured in rules.words.items():
        if word.lower() in text:
            return ErrorClass(configured)
    for words, verdict in _BY_WORD:
        if any(word in text for word in words):
            return verdict
    return ErrorClass.RETRYABLE
