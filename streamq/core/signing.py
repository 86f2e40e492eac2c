"""Signatures: who may ask this worker for work.

HMAC-SHA256 over the exact bytes of the signed fields. The key of a queue is derived from the secret and the queue's
name, so a message that is moved to another queue does not verify there, and a producer can be given the key of one
queue alone. Nothing here decodes a payload.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Final, Literal

from streamq.core.config import QUEUE_NAME, QueueConfig
from streamq.core.errors import ConfigError
from streamq.core.outcome import Reason

State = Literal["active", "accepted", "revoked"]

MIN_SECRET: Final = 32  # bytes; the block that HMAC-SHA256 gains no strength beyond
_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")
_STATES: Final = ("active", "accepted", "revoked")

_BLOCK: Final = 64  # bytes that SHA-256 takes at once
_INNER_PAD: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER_PAD: Final = bytes(byte ^ 0x5C for byte in range(256))
_MAC_LENGTH: Final = 43  # characters of base64 for 32 bytes
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")


class SigningKey:
    """One named secret and what it may still be used for.

    Args:
        key_id: the name that signatures carry.
        state: `active` signs and verifies, `accepted` verifies, `revoked` is refused.
        secret: at least 32 bytes: the root secret, or the key of one queue already derived from it.
        queue: the one queue that ``secret`` was derived for; None for a root secret.
    """

    __slots__ = ("_by_queue", "_secret", "key_id", "prefix", "queue", "state")

    def __init__(self, key_id: str, state: State, secret: bytes, queue: str | None = None) -> None:
        self.key_id, self.state, self.queue = key_id, state, queue
        self.prefix = b"v1,%b," % key_id.encode()  # of every signature that it makes
        self._secret = secret
        self._by_queue: dict[str, _Mac] = {}

    def __repr__(self) -> str:
        scope = f"@{self.queue}" if self.queue else ""
        return f"<SigningKey {self.key_id}{scope} {self.state}>"  # never the secret

    def for_queue(self, queue: str) -> "SigningKey":
        """The key of one queue alone, for a producer that is trusted with nothing else."""
        return SigningKey(self.key_id, "active", derive(self._secret, queue), queue)

    def export(self) -> str:
        """The key as STREAMQ_SIGNING_KEYS takes it, secret included."""
        scope = f"@{self.queue}" if self.queue else ""
        return f"{self.key_id}{scope}:{self.state}:{base64.urlsafe_b64encode(self._secret).rstrip(b'=').decode()}"

    def covers(self, queue: str) -> bool:
        """Whether this key may speak for ``queue``."""
        return self.queue is None or self.queue == queue

    def signature(self, queue: str, fields: Mapping[bytes, bytes]) -> bytes:
        """The ``signature`` field of an entry with these fields."""
        mac = self._by_queue.get(queue)
        if mac is None:
            key = self._secret if self.queue is not None else derive(self._secret, queue)
            mac = self._by_queue[queue] = _Mac(key, self.key_id.encode())
        return self.prefix + mac.of(fields)


class _Mac:
    """HMAC-SHA256 (RFC 2104) of entries with one key.

    Both hashes begin with a block made of the key alone, and what follows in the inner one begins alike for all
    entries: they are hashed once, and copied. ``hmac.digest`` begins anew each time.

    Args:
        key: of one queue.
        key_id: which stands in every text.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes, key_id: bytes) -> None:
        block = (hashlib.sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
        self._inner = hashlib.sha256(block.translate(_INNER_PAD))
        self._inner.update(b"streamq.v1%b%b" % (len(key_id).to_bytes(4), key_id))
        self._outer = hashlib.sha256(block.translate(_OUTER_PAD))

    def of(self, fields: Mapping[bytes, bytes]) -> bytes:
        """The MAC as it stands in a signature: base64url without padding."""
        get = fields.get  # written out: a loop over the five names takes three times as long
        name, queue, level = get(b"id", b""), get(b"queue", b""), get(b"priority", b"")
        payload, metadata = get(b"payload", b""), get(b"metadata", b"")
        text = b"".join((
            len(name).to_bytes(4), name, len(queue).to_bytes(4), queue, len(level).to_bytes(4), level,
            len(payload).to_bytes(4), payload, len(metadata).to_bytes(4), metadata,
        ))  # fmt: skip
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(text)
        outer.update(inner.digest())
        return binascii.b2a_base64(outer.digest(), newline=False)[:_MAC_LENGTH].translate(_URL_SAFE)


def derive(secret: bytes, queue: str) -> bytes:
    """The key of one queue."""
    return hmac.digest(secret, b"streamq.v1.sign." + queue.encode(), hashlib.sha256)


class KeyRing:
    """All keys that this process knows.

    Args:
        keys: in the order of the configuration; the first active one that covers a queue signs for it.

    Raises:
        ConfigError: two keys share an id and a queue.
    """

    def __init__(self, keys: tuple[SigningKey, ...] = ()) -> None:
        self.keys = keys
        self._by_name: dict[tuple[str, str | None], SigningKey] = {}
        self._by_prefix: dict[tuple[bytes, str], SigningKey] = {}  # what signatures begin with, and their queue
        for key in keys:
            if (key.key_id, key.queue) in self._by_name:
                raise ConfigError(f"signing keys: the id {key.key_id!r} is given twice; every key needs its own")
            self._by_name[key.key_id, key.queue] = key

    def __bool__(self) -> bool:
        return bool(self.keys)

    def __repr__(self) -> str:
        return f"<KeyRing {list(self.keys)}>"

    @classmethod
    def parse(cls, text: str) -> "KeyRing":
        """Read ``KEYID:STATE:BASE64`` entries, separated by commas or line ends.

        Args:
            text: the value of STREAMQ_SIGNING_KEYS, or the contents of the file.

        Raises:
            ConfigError: an entry is malformed. The text names the entry by its number, never by its content.
        """
        entries = [entry.strip() for entry in text.replace("\n", ",").split(",")]
        return cls(tuple(_parse_key(entry, n) for n, entry in enumerate(filter(None, entries), start=1)))

    def signer(self, queue: str) -> SigningKey | None:
        """The key that signs what is published to ``queue``; None when there is no active one."""
        return next((key for key in self.keys if key.state == "active" and key.covers(queue)), None)

    def verify(self, queue: str, fields: Mapping[bytes, bytes]) -> Reason | None:
        """Check the signature of an entry that carries one.

        Exactly one key is tried, the one that the signature names: no oracle, no downgrade.

        Returns:
            None when it holds, else why it does not.
        """
        signature = fields[b"signature"]
        key = self._by_prefix.get((signature[:-_MAC_LENGTH], queue))
        if key is None:
            version, _, rest = signature.partition(b",")
            name, _, _ = rest.partition(b",")
            if version != b"v1" or not _KEY_ID.fullmatch(key_id := name.decode("ascii", "replace")):
                return Reason.BAD_SIGNATURE
            key = self._by_name.get((key_id, queue)) or self._by_name.get((key_id, None))
            if key is None:
                return Reason.UNKNOWN_KEY
            self._by_prefix[key.prefix, queue] = key
        if key.state == "revoked":
            return Reason.REVOKED_KEY
        # Compared as text: base64 with other trailing bits decodes to the same MAC but is not the same signature.
        return None if hmac.compare_digest(signature, key.signature(queue, fields)) else Reason.BAD_SIGNATURE


def resolve_signing(config: QueueConfig, keys: KeyRing, *, production: bool) -> Literal["required", "optional"]:
    """Whether a queue takes unsigned messages.

    Args:
        config: of the queue.
        keys: of this process.
        production: an unsigned queue must say so itself.

    Raises:
        ConfigError: signatures are asked for, and there is no key to check them with.
    """
    if keys:
        return config.signing or "required"
    if config.signing == "required":
        raise ConfigError(f"{config.name} says signing: required, but there is no key; set STREAMQ_SIGNING_KEYS")
    if config.signing is None and production:
        raise ConfigError(
            f"{config.name}: no signing key is configured and STREAMQ_ENV=production; set STREAMQ_SIGNING_KEYS "
            f"(`streamq keys generate`), or say signing: optional for this queue"
        )
    return "optional"


def key_id_of(signature: bytes) -> str:
    """The key id that a verified signature names."""
    return signature.split(b",", 2)[1].decode()


def _parse_key(entry: str, number: int) -> SigningKey:
    where = f"signing keys, entry {number}"
    parts = entry.split(":")
    if len(parts) != 3:
        raise ConfigError(f"{where}: expected KEYID:STATE:BASE64, like k1:active:…; `streamq keys generate` makes one")
    name, state, secret_text = parts
    key_id, at, queue = name.partition("@")
    if not _KEY_ID.fullmatch(key_id):
        raise ConfigError(f"{where}: a key id has 1 to 32 characters of A-Z a-z 0-9 _ -")
    if at and not re.fullmatch(QUEUE_NAME, queue):  # an empty one would be a key of all queues
        raise ConfigError(f"{where}: what follows the @ should be the name of a queue")
    if state not in _STATES:
        # Not quoted: who mixes up the order has the secret in this place.
        raise ConfigError(f"{where}: the state should be one of {', '.join(_STATES)}")
    secret = _decode_secret(secret_text, where)
    return SigningKey(key_id, state, secret, queue if at else None)  # type: ignore[arg-type]


def _decode_secret(text: str, where: str) -> bytes:
    plain = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        secret = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ConfigError(f"{where}: the secret is not base64") from None
    if len(secret) < MIN_SECRET:
        raise ConfigError(f"{where}: the secret has {len(secret)} bytes; at least {MIN_SECRET} are needed")
    return secret
