"""What may be said about an error: enough to mend it, nothing that is secret.

Local variables are never shown: they hold payloads, keys and tokens.
"""

import re
import sys
import traceback
from types import TracebackType
from typing import NamedTuple

MAX_ERROR = 2048  # bytes of `error` in a dead letter
MOST_TO_SCRUB = 65_536  # bytes that are searched for secrets
MAX_TRACEBACK = 8192  # bytes of `traceback` in a dead letter

_REMEMBERED = "_streamq_failure"  # an attribute of an error
_SECRETS = (
    (re.compile(r"(?<=://)[^\s/]*@"), "***@"),  # credentials in a URL, to the last @ of its authority
    (
        re.compile(
            r"(?i)((?:password|passwd|passphrase|pwd|secret|token|(?:api|access|private|secret|signing)[_-]?key"
            r"|authorization|credential)s?[\"']?\s*[=:]\s*)(?:(?:bearer|basic|digest|token)\s+)?"
            r"(\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|[^\s,;&)}\]]+)"
        ),
        r"\1***",
    ),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), r"\1 ***"),
)


class Failure(NamedTuple):
    """An error, fit to be stored and logged.

    Attributes:
        error: type and message, scrubbed, at most 2 KiB.
        traceback: its frames and causes, at most 8 KiB, the innermost kept.
        fingerprint: error type and the innermost frame of the app.
    """

    error: str
    traceback: str
    fingerprint: str


def describe(error: BaseException) -> Failure:
    """Say what happened without saying what was in it."""
    remembered = vars(error).get(_REMEMBERED)
    if isinstance(remembered, Failure):
        return remembered
    kind = type(error).__name__
    # Cut roughly before scrubbing, which takes its time, and exactly after it, so that no half of a secret is left.
    text = clip(scrub(clip(text_of(error), MOST_TO_SCRUB)), MAX_ERROR)
    frames = clip(scrub(clip(_frames(error), MOST_TO_SCRUB, keep_end=True)), MAX_TRACEBACK, keep_end=True)
    return Failure(text, frames, _fingerprint(kind, error.__traceback__))


def remember(error: BaseException) -> None:
    """Describe an error before it travels to another process, where its frames are lost."""
    vars(error)[_REMEMBERED] = describe(error)


def _frames(error: BaseException) -> str:
    if error.__traceback__ is None:
        return ""
    try:
        return "".join(traceback.format_exception(error))
    except Exception:  # noqa: BLE001 - the user's error is asked for its message and, a SyntaxError, for its parts
        return "".join(traceback.format_tb(error.__traceback__))


def text_of(error: BaseException) -> str:
    """Type and message of an error, not yet scrubbed. Never raises: the message is made by the user's code."""
    kind = type(error).__name__
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - whatever a __str__ may raise
        text = "(it cannot say what it is)"
    return f"{kind}: {text}" if text else kind


def scrub(text: str) -> str:
    """Take out what looks like a credential."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def clip(text: str, limit: int, *, keep_end: bool = False) -> str:
    """Cut text to a number of UTF-8 bytes.

    Args:
        text: what to cut.
        limit: bytes of the result at most.
        keep_end: cut at the front instead of the end.
    """
    raw = text.encode(errors="replace")
    if len(raw) <= limit:
        return raw.decode()
    mark = "…"
    room = limit - len(mark.encode())
    part = (raw[-room:] if keep_end else raw[:room]).decode(errors="ignore")
    return mark + part if keep_end else part + mark


def _fingerprint(kind: str, frames: TracebackType | None) -> str:
    place = ""
    while frames is not None:
        code, module = frames.tb_frame.f_code, str(frames.tb_frame.f_globals.get("__name__", "?"))
        if not place or _of_the_app(module, code.co_filename):
            place = f"{module}.{code.co_qualname}"
        frames = frames.tb_next
    return f"{kind} {place}".strip()


def _of_the_app(module: str, filename: str) -> bool:
    root = module.partition(".")[0]
    installed = "site-packages" in filename or "dist-packages" in filename
    return root != "streamq" and root not in sys.stdlib_module_names and not installed
