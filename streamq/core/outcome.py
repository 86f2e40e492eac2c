"""The verdict on a delivery: judged once by ``policy``, applied once by the settler."""

from enum import StrEnum

import msgspec


class Reason(StrEnum):
    """Why a message became a dead letter."""

    MAX_RETRIES = "max_retries"
    REJECTED = "rejected"
    POISON = "poison"
    MAX_DELIVERIES = "max_deliveries"
    EXPIRED = "expired"
    UNKNOWN_TYPE = "unknown_type"
    UNKNOWN_KEY = "unknown_key"
    UNSIGNED = "unsigned"
    BAD_SIGNATURE = "bad_signature"
    REVOKED_KEY = "revoked_key"
    WRONG_QUEUE = "wrong_queue"
    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    SCHEMA = "schema"
    TIMEOUT = "timeout"


class Wait(StrEnum):
    """Why a message goes back to wait: the name of the counter in the ledger."""

    RETRIED = "retried"  # its handler failed
    SNOOZED = "snoozed"  # its handler asked for later
    HELD = "held"  # nobody here can run it yet
    SUSPECT = "suspect"  # it may kill its worker and could not be run alone now


class Ack(msgspec.Struct, frozen=True):
    """Done. ``dropped`` when the handler said that it was not needed any more."""

    dropped: bool = False


class Retry(msgspec.Struct, frozen=True):
    """Back to the delayed messages.

    Args:
        why: what kind of wait it is.
        delay_ms: milliseconds from now.
        retry_count: handler failures, written to the entry.
        deliveries: losses, written to the entry.
        held_since: milliseconds since the epoch when it was first held back; 0 = not held.
        alone: deaths while it ran alone.
        error: type and message of what failed.
        fingerprint: error type and the innermost frame of the app: for the log.
    """

    why: Wait
    delay_ms: int
    retry_count: int = 0
    deliveries: int = 0
    held_since: int = 0
    alone: int = 0
    error: str = ""
    fingerprint: str = ""


class DeadLetter(msgspec.Struct, frozen=True):
    """To the dead letters, for good reason.

    Args:
        reason: why.
        error: type and message, scrubbed, at most 2 KiB.
        traceback: frames without local variables, at most 8 KiB.
        fingerprint: error type and the innermost frame of the app: groups dead letters by cause.
        retry_count: retries that were made.
    """

    reason: Reason
    error: str = ""
    traceback: str = ""
    fingerprint: str = ""
    retry_count: int = 0


class Release(msgspec.Struct, frozen=True):
    """Back to the tail of its stream, as if it had not been fetched: shutdown, or no slot for it."""


Outcome = Ack | Retry | DeadLetter | Release
