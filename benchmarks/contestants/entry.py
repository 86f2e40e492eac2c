"""The signed entry of the protocol, made and verified by hand: no faster way is known in Python.

HMAC-SHA256 is two hashes over a padded key. Both are fed with the key once, and copied for every message.
"""

import hmac
import itertools
import secrets
from binascii import b2a_base64
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256

KEY_ID, SECRET = b"bench", b"ABC" * 11
KEYS = "bench:active:" + "QUJD" * 11  # the same as STREAMQ_SIGNING_KEYS takes it
NAMES = [b"id", b"queue", b"priority", b"payload", b"metadata", b"signature"]
NORMAL = b"3"
URL_SAFE = bytes.maketrans(b"+/", b"-_")
LENGTHS = [length.to_bytes(4) for length in range(4096)]


class Entries:
    """The entries of one queue.

    Args:
        queue: its name; it is signed, and so the key is its own.
    """

    def __init__(self, queue: str) -> None:
        self.queue = queue.encode()
        key = hmac.digest(SECRET, b"streamq.v1.sign." + self.queue, "sha256").ljust(64, b"\0")
        self._inner = sha256(bytes(byte ^ 0x36 for byte in key) + b"streamq.v1" + _sized(KEY_ID))
        self._outer = sha256(bytes(byte ^ 0x5C for byte in key))
        self._place = _sized(self.queue) + _sized(NORMAL)
        self._numbers = itertools.count(secrets.randbits(96))

    def make(self, payload: bytes) -> list[bytes]:
        """A new message as the fields of its entry: name, value, name, value ..."""
        message_id = b"msg_%032x" % next(self._numbers)
        metadata = b'{"created_at":"%b","created_by":"bench"}' % datetime.now(UTC).isoformat().encode()
        signature = self._signature(message_id, payload, metadata)
        return [
            b"id", message_id, b"queue", self.queue, b"priority", NORMAL, b"payload", payload, b"metadata", metadata,
            b"signature", signature,
        ]  # fmt: skip

    def payload(self, fields: Sequence[bytes]) -> bytes:
        """The payload of an entry whose signature holds.

        Args:
            fields: name, value, name, value ... in the order of ``make``, which is that of streamq's publisher.

        Raises:
            ValueError: it does not hold, or the fields are others.
        """
        if fields[::2] != NAMES:
            raise ValueError("an entry that nobody here has written")
        payload = fields[7]
        if not hmac.compare_digest(fields[11], self._signature(fields[1], payload, fields[9])):
            raise ValueError("a signature that does not hold")
        return payload

    def _signature(self, message_id: bytes, payload: bytes, metadata: bytes) -> bytes:
        """Of the queue and the level that are meant: what says another one was signed for another one."""
        inner = self._inner.copy()
        inner.update(
            b"".join(
                (
                    LENGTHS[len(message_id)], message_id, self._place, LENGTHS[len(payload)], payload,
                    LENGTHS[len(metadata)], metadata,
                )
            )
        )  # fmt: skip
        outer = self._outer.copy()
        outer.update(inner.digest())
        return b"v1,bench," + b2a_base64(outer.digest(), newline=False)[:-1].translate(URL_SAFE)


def _sized(part: bytes) -> bytes:
    return LENGTHS[len(part)] + part
