"""The signature once more, written from section 2 of the protocol alone: a producer in any other language."""

import base64
import hashlib
import hmac

SIGNED = ("id", "queue", "priority", "payload", "metadata")


def sign(fields: dict[bytes, bytes], key_id: str, secret: bytes, *, derived: bool = False) -> bytes:
    """The content of `signature` for `fields`; `derived` says that `secret` is the queue's key already."""
    queue_key = secret
    if not derived:
        queue_key = hmac.new(secret, b"streamq.v1.sign." + fields[b"queue"], hashlib.sha256).digest()
    parts = [key_id.encode(), *(fields[name.encode()] for name in SIGNED)]
    text = b"streamq.v1" + b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    mac = hmac.new(queue_key, text, hashlib.sha256).digest()
    return f"v1,{key_id},".encode() + base64.urlsafe_b64encode(mac).rstrip(b"=")
