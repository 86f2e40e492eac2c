"""What a publisher gets back."""

from typing import NamedTuple


class Receipt(NamedTuple):
    """Proof that a message was accepted.

    Attributes:
        id: the message's id; with ``duplicate`` that of the message which was accepted before.
        queue: the queue that holds it.
        duplicate: True when nothing was added, because this id or idempotency key was there already.
    """

    id: str
    queue: str
    duplicate: bool = False
