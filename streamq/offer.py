"""One message on its way to be accepted: what each answer means for it, and when nobody may go on asking.

It neither sends nor waits: who does may be an event loop, or a thread that blocks.
"""

import time

from streamq.core.backoff import reconnect_delay
from streamq.core.config import QueueConfig
from streamq.core.errors import DurabilityUnconfirmed, PublishUnknown, QueueFull, RedisUnavailable
from streamq.core.message import Draft
from streamq.core.receipt import Receipt
from streamq.store.outages import OutOfMemory, RedisRefused

FULL_PAUSE = 0.1  # seconds between two tries of `on_full: block`


class Offer:
    """Begins when its message is offered for the first time.

    Args:
        draft: the message.
        config: of its queue.
        window: seconds for which its id is remembered.
        own_id: its id was made here, so nobody else can have offered it.

    Attributes:
        draft: the message.
        fate: its receipt, or the error that its publisher is to be told; None while it is to be offered again.
    """

    __slots__ = ("_config", "_full", "_give_up", "_own_id", "_patience", "_unknown", "draft", "fate")

    def __init__(self, draft: Draft, config: QueueConfig, window: float, *, own_id: bool) -> None:
        self.draft = draft
        self.fate: Receipt | Exception | None = None
        self._config, self._own_id = config, own_id
        now = time.monotonic()
        self._patience = now + (config.block_timeout if config.on_full == "block" else 0.0)
        # Within half of the window an id is surely remembered, so that a repetition adds nothing.
        self._give_up = now + window / 2
        self._unknown = 0  # tries in a row whose reply was lost: each of them may have been accepted
        self._full = False

    @property
    def pause(self) -> float:
        """Seconds to wait before it is offered again."""
        if self._full:
            return min(FULL_PAUSE, max(0.0, self._patience - time.monotonic()))
        # The last try comes in time: later the id may be forgotten, and it would be accepted once more.
        return min(reconnect_delay(self._unknown), max(0.0, self._give_up - time.monotonic()))

    def answered(self, word: str, doubt: str) -> None:
        """Redis has answered.

        Args:
            word: of the script for this message.
            doubt: why it may not survive, if it is there; "" when it does.
        """
        draft, queue = self.draft, self._config.name
        if word == "OK" or (word == "DUP" and self._own_id and self._unknown):  # a duplicate of our own lost try
            self._accepted(Receipt(draft.id, queue), doubt)
        elif word == "DUP":
            self._accepted(Receipt(draft.id, queue, duplicate=True), doubt)
        elif word.startswith("IDEM "):
            self._accepted(Receipt(word[5:], queue, duplicate=True), doubt)
        elif word.startswith("ERR "):
            self.fate = RedisUnavailable(word[4:])
        else:
            self._no_room(word)

    def failed(self, error: RedisUnavailable) -> None:
        """Redis has not answered, or not taken the call at all."""
        refused = isinstance(error, OutOfMemory | RedisRefused)
        if refused and not self._unknown:
            if isinstance(error, RedisRefused):
                self.fate = error
            else:
                self._no_room("OOM")
        elif refused or time.monotonic() >= self._give_up:
            self.fate = PublishUnknown(self.draft.id, str(error))
            self.fate.__cause__ = error
        else:
            self._unknown += 1
            self._full = False

    def receipt(self) -> Receipt:
        """What its publisher gets, once its fate is known.

        Raises:
            QueueFull, PublishUnknown, DurabilityUnconfirmed, RedisUnavailable: it was not to be.
        """
        if isinstance(self.fate, Receipt):
            return self.fate
        assert self.fate is not None  # noqa: S101 - nobody asks earlier
        raise self.fate

    def _accepted(self, receipt: Receipt, doubt: str) -> None:
        self.fate = DurabilityUnconfirmed(receipt.id, doubt, receipts=(receipt,)) if doubt else receipt

    def _no_room(self, word: str) -> None:
        config = self._config
        if config.on_full == "block" and time.monotonic() < self._patience:
            self._full = True
        elif word == "OOM":
            self.fate = QueueFull(f"Redis is out of memory; it did not accept a message for {config.name}")
        else:
            self.fate = QueueFull(
                f"{config.name} holds {config.max_length} messages (max_length); add workers, raise max_length, or "
                f"set on_full: block"
            )
