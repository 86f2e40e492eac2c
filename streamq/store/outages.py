"""What the errors of redis-py mean to us: outages, refusals, and a few that have a cure of their own."""

import asyncio
import contextlib
import re
import traceback
from collections.abc import Iterator

from redis import exceptions

from streamq.core.errors import RedisUnavailable
from streamq.core.failure import scrub

FAILURES = (exceptions.RedisError, exceptions.RedisClusterException, OSError, asyncio.TimeoutError)
_REFUSALS = (exceptions.AuthenticationError, exceptions.NoPermissionError)


class GroupMissing(RedisUnavailable):
    """The consumer group is gone: the stream was deleted, renamed, or lost in a failover."""


class RedisRefused(RedisUnavailable):
    """Redis will not do this however often it is asked: a key of another type, missing rights, wrong credentials."""


class OutOfMemory(RedisUnavailable):
    """Redis refuses to store more."""


# What redis-py has no class for. Missing rights inside a script are told in words, which differ.
_MEANING = {
    "NOGROUP": GroupMissing, "UNBLOCKED": GroupMissing, "WRONGTYPE": RedisRefused, "ACL failure": RedisRefused,
    "can't run this command": RedisRefused,
}  # fmt: skip
_SAID = re.compile(rf"\b({'|'.join(_MEANING)})\b")


@contextlib.contextmanager
def redis_errors() -> Iterator[None]:
    """Turn whatever the client raises into ``RedisUnavailable``, the one kind of outage the upper floors know."""
    try:
        yield
    except FAILURES as error:
        raise _meaning(error)(scrub(f"{type(error).__name__}: {error}")) from error
    except (AttributeError, LookupError) as error:
        if not _is_of_client(error):
            raise
        raise RedisUnavailable(scrub(f"{type(error).__name__}: {error}")) from error
    except RuntimeError as error:
        # uvloop's word for a write to a connection that was reset a moment ago, which redis-py lets through.
        if "unable to perform operation on" not in str(error):
            raise
        raise RedisUnavailable(f"the connection was closed: {error}") from error


def _is_of_client(error: BaseException) -> bool:
    """Whether redis-py stumbled over itself: it closes connections while other tasks open them, and uses None then."""
    *_, innermost = traceback.walk_tb(error.__traceback__)
    return str(innermost[0].f_globals["__name__"]).startswith("redis.")


def _meaning(error: BaseException) -> type[RedisUnavailable]:
    if isinstance(error, exceptions.OutOfMemoryError):
        return OutOfMemory
    if isinstance(error, _REFUSALS) or isinstance(error.__cause__, _REFUSALS):  # redis-py wraps those of a connect
        return RedisRefused
    # Only what the server said: the path of a socket may hold such a word too.
    said = _SAID.search(str(error)) if isinstance(error, exceptions.ResponseError) else None
    return _MEANING[said[1]] if said else RedisUnavailable
